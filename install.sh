#!/bin/bash
# Installs the service on this host, or upgrades it in place: run it as root from the unpacked archive.
# usage: sudo ./install.sh [--kubeconfig FILE]       FILE is copied to where the service looks for it
#        sudo ./install.sh --uninstall               removes all of it: settings and credentials, too
#
# Where systemd does not run (the chroot of an image that is being made) it installs and starts nothing.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umask 022

# Names that the unit has, too.
name=img-classification
home=/var/lib/$name
environment=/etc/$name.env
binary=/usr/local/bin/$name
units=/usr/local/lib/systemd/system
doc=/usr/local/share/doc/$name

say() { echo "$*"; }
die() { echo "install.sh: $*" >&2; exit 1; }
# In a chroot or a container there may be no systemd, or nobody whom to ask.
has_systemctl() { command -v systemctl >/dev/null; }
is_booted() { has_systemctl && [ -d /run/systemd/system ]; }

# put SOURCE TARGET MODE: whole or not at all, also under a running program.
put() {
  install -D -m "$3" "$1" "$2.new"
  mv -f "$2.new" "$2"
}

uninstall() {
  if has_systemctl; then
    local now=()
    ! is_booted || now=(--now)
    systemctl --quiet disable "${now[@]}" $name.service $name.socket 2>/dev/null || true
  fi
  rm -rf $units/$name.{service,socket} /etc/systemd/system/$name.{service,socket}.d \
    $binary $doc $environment $home
  rmdir --ignore-fail-on-non-empty -p $units 2>/dev/null || true
  if is_booted; then
    systemctl daemon-reload
    systemctl reset-failed $name.service $name.socket 2>/dev/null || true
  fi
  if getent passwd $name >/dev/null; then userdel $name; fi
  if getent group $name >/dev/null; then groupdel $name; fi
  say "removed: the service, its settings, its credentials and its user"
}

# Only its own user may look into its home: the kubeconfig and ~/.aws are there.
make_user() {
  getent passwd $name >/dev/null ||
    useradd --system --user-group --home-dir $home --no-create-home --shell "$(command -v nologin || echo /bin/false)" $name
  install -d -o $name -g $name -m 700 $home
  if [ -n "$kubeconfig" ]; then
    install -d -o $name -g $name -m 700 $home/.kube
    install -o $name -g $name -m 600 "$kubeconfig" $home/.kube/config
  fi
}

put_files() {
  put "$here/$name" $binary 755
  for unit in $name.service $name.socket; do put "$here/systemd/$unit" "$units/$unit" 644; done
  # An environment file that is as it came is replaced, one that was edited is not. It may hold secrets.
  local edited=
  if [ -e $environment ] && ! cmp -s $environment $doc/$name.env; then edited=1; fi
  for file in README.md LICENSE docs/eks.md systemd/$name.env; do put "$here/$file" "$doc/${file##*/}" 644; done
  if [ -z "$edited" ]; then
    put $doc/$name.env $environment 600
  else
    say "kept: $environment, which was edited; what is new in it: diff $environment $doc/$name.env"
  fi
}

kubeconfig='' action=install
while [ $# != 0 ]; do
  case $1 in
    --uninstall) action=uninstall ;;
    --kubeconfig) [ $# -ge 2 ] || die "--kubeconfig needs a file"; kubeconfig=$2; shift ;;
    --help) sed -n '2,4s/^# \{0,1\}//p' "$0"; exit ;;
    *) die "unknown argument $1; see --help" ;;
  esac
  shift
done
[ "$(id -u)" = 0 ] || die "root is needed: sudo $0"
if [ $action = uninstall ]; then uninstall; exit; fi

[ -f "$here/$name" ] || die "$here has no $name; this runs from the unpacked archive, which ./dist makes"
[ -z "$kubeconfig" ] || [ -r "$kubeconfig" ] || die "$kubeconfig cannot be read"
version=$("$here/$name" --version) || die "the program does not run here; is the archive for $(uname -m)?"
make_user
put_files
say "installed: $version in $binary, settings in $environment"

# --- start
if ! has_systemctl; then
  say "not enabled, not started: there is no systemd here"
  exit
fi
systemctl --quiet enable $name.service
if ! is_booted; then
  say "enabled, not started: systemd does not run here; it starts at the next boot"
  exit
fi
systemctl daemon-reload
# Nothing is started that cannot run: doctor looks with the service's eyes.
found=$($binary doctor --as-service) || true
problem=$(grep '^FAIL kubeconfig:' <<<"$found") || true
if [ -n "$problem" ] && ! grep -q 'LOCAL is set' <<<"$found"; then
  say "$problem"
  cat <<NEXT
enabled, not started: there is no kubeconfig that it can use. As it is the service that has to be let into the cluster, make it as its user:
  sudo -u $name -H aws eks update-kubeconfig --region REGION --name CLUSTER
or copy one: sudo ./install.sh --kubeconfig FILE. Then:
  sudo systemctl restart $name && sudo $name doctor --as-service
NEXT
  exit
fi
# The start is over when the service has said that it takes requests.
SECONDS=0
if ! systemctl restart $name.service; then
  journalctl --unit $name --lines 20 --no-pager -o cat >&2 || true
  die "it does not start; see above, and: sudo $name doctor --as-service"
fi
say "running: ready after $SECONDS s"
grep '^[a-z]* address:' <<<"$found" || true
if grep '^FAIL' <<<"$found"; then
  say "still to do, see above; after it: sudo $name doctor --as-service"
else
  say "next: sudo $name doctor --as-service, and $name selftest http://127.0.0.1:5000"
fi
