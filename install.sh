#!/bin/bash
# Installs the service on this host, or upgrades it in place. Run it as root from the unpacked archive.
# usage: sudo ./install.sh [--kubeconfig FILE]       copies FILE to the service's home
#        sudo ./install.sh --uninstall               removes everything, settings and credentials included
#
# Where systemd does not run (a chroot, an image build) it installs the files and starts nothing.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
umask 022

# The unit has the same names.
name=img-classification
home=/var/lib/$name
environment=/etc/$name.env
binary=/usr/local/bin/$name
units=/usr/local/lib/systemd/system
doc=/usr/local/share/doc/$name
man=/usr/local/share/man/man1
# Where bash-completion, zsh and fish look for the scripts of local programs.
completions=(
  "bash:/usr/local/share/bash-completion/completions/$name"
  "zsh:/usr/local/share/zsh/site-functions/_$name"
  "fish:/usr/local/share/fish/vendor_completions.d/$name.fish"
)

log() { echo "$*"; }
die() { echo "install.sh: $*" >&2; exit 1; }
# A chroot or a container may have no systemd, or one that does not run.
has_systemctl() { command -v systemctl >/dev/null; }
is_booted() { has_systemctl && [ -d /run/systemd/system ]; }

# put SOURCE TARGET MODE: replaces TARGET atomically, also while it runs.
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
    $binary $doc $environment $home $man/$name{,-*}.1 "${completions[@]#*:}"
  for file in "$units/$name.service" "$man/$name.1" "${completions[@]#*:}"; do
    rmdir --ignore-fail-on-non-empty -p "${file%/*}" 2>/dev/null || true
  done
  if is_booted; then
    systemctl daemon-reload
    systemctl reset-failed $name.service $name.socket 2>/dev/null || true
  fi
  if getent passwd $name >/dev/null; then userdel $name; fi
  if getent group $name >/dev/null; then groupdel $name; fi
  log "removed: the service, its settings, its credentials and its user"
}

# The home holds the kubeconfig and ~/.aws, so that only the service's user can read it.
make_user() {
  getent passwd $name >/dev/null ||
    useradd --system --user-group --home-dir $home --no-create-home --shell "$(command -v nologin || echo /bin/false)" $name
  install -d -o $name -g $name -m 700 $home
  if [ -n "$kubeconfig" ]; then
    # As the service's user, which may have put links there: root would follow them.
    # shellcheck disable=SC2016 # that shell expands $1
    runuser -u $name -- sh -ec 'umask 077
      mkdir -p "$1"
      file=$(mktemp "$1/config.XXXXXX")
      trap "rm -f \"$file\"" EXIT
      cat >"$file"
      mv -fT "$file" "$1/config"' sh $home/.kube <"$kubeconfig" ||
      die "cannot write $home/.kube/config as the user $name; fix: remove $home/.kube"
  fi
}

put_files() {
  put "$here/$name" $binary 755
  for unit in $name.service $name.socket; do put "$here/systemd/$unit" "$units/$unit" 644; done
  # Replaces the environment file unless it was edited. Mode 600, because it may hold secrets.
  local edited=
  if [ -e $environment ] && ! cmp -s $environment $doc/$name.env; then edited=1; fi
  for file in README.md CHANGELOG.md LICENSE; do put "$here/$file" "$doc/$file" 644; done
  for file in "$here"/docs/*; do put "$file" "$doc/docs/${file##*/}" 644; done
  for file in "$here"/man/*; do put "$file" "$man/${file##*/}" 644; done
  for place in "${completions[@]}"; do put "$here/completions/$name.${place%%:*}" "${place#*:}" 644; done
  put "$here/systemd/$name.env" "$doc/$name.env" 644
  if [ -z "$edited" ]; then
    put $doc/$name.env $environment 600
  else
    log "kept: $environment, which was edited; to see new settings: diff $environment $doc/$name.env"
  fi
}

kubeconfig='' action=install
while [ $# != 0 ]; do
  case $1 in
    --uninstall) action=uninstall ;;
    --kubeconfig) [ $# -ge 2 ] || die "--kubeconfig needs a FILE"; kubeconfig=$2; shift ;;
    --help) sed -n '2,4s/^# \{0,1\}//p' "$0"; exit ;;
    *) die "unknown argument $1; fix: see --help" ;;
  esac
  shift
done
[ "$(id -u)" = 0 ] || die "root is needed; fix: sudo $0"
if [ $action = uninstall ]; then uninstall; exit; fi

[ -f "$here/$name" ] || die "$here has no $name; fix: run install.sh from the unpacked archive of ./dist"
[ -z "$kubeconfig" ] || { [ -r "$kubeconfig" ] && [ ! -d "$kubeconfig" ]; } || die "cannot read $kubeconfig; fix: name a readable file"
version=$("$here/$name" --version) || die "the program does not run on this host; fix: use the archive for $(uname -m)"
make_user
put_files
log "installed: $version in $binary, settings in $environment"

# --- start
if ! has_systemctl; then
  log "not enabled, not started: this system has no systemd"
  exit
fi
systemctl --quiet enable $name.service
if ! is_booted; then
  log "enabled, not started: systemd does not run here; it starts at the next boot"
  exit
fi
systemctl daemon-reload
# Without a usable kubeconfig the service could not run, so doctor checks it with the service's user and environment.
found=$($binary doctor --as-service) || true
problem=$(grep '^FAIL kubeconfig:' <<<"$found") || true
if [ -n "$problem" ] && ! grep -q 'LOCAL is set' <<<"$found"; then
  log "$problem"
  cat <<NEXT
enabled, not started: there is no kubeconfig that it can use; fix: create one as the service's user, which calls the cluster:
  sudo -u $name -H $binary setup --eks-kubeconfig CLUSTER --region REGION
or copy one: sudo ./install.sh --kubeconfig FILE. Then:
  sudo systemctl restart $name && sudo $name doctor --as-service
NEXT
  exit
fi
# systemctl returns when the service has reported readiness.
SECONDS=0
if ! systemctl restart $name.service; then
  journalctl --unit $name --lines 20 --no-pager -o cat >&2 || true
  die "the service does not start; fix: see its log above, and: sudo $name doctor --as-service"
fi
log "running: ready after $SECONDS s"
grep '^[a-z]* address:' <<<"$found" || true
if grep '^FAIL' <<<"$found"; then
  log "fix the lines above; then: sudo $name doctor --as-service"
else
  log "next: sudo $name doctor --as-service, and $name selftest http://127.0.0.1:5000"
fi
