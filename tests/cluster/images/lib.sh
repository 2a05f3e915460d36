# shellcheck shell=bash disable=SC2034  # the scripts that source this use the variables
# Shared by the scripts that build images from this repository's Dockerfiles without a registry: buildah, a work folder, and
# the base image of the Dockerfiles, made from Debian packages. Needs root on Debian 12.
# A script that sources this may add packages to the array needs.

repository=$(readlink -f "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../../..")
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/img-classification
# The base image of the Dockerfiles, by its full name in containerd.
base=docker.io/library/debian:bookworm-slim
export LC_ALL=C DEBIAN_FRONTEND=noninteractive

say() { echo "image: $*" >&2; }
die() { say "$*"; exit 1; }
[ "$(id -u)" = 0 ] || die "must run as root"

missing=("${needs[@]}")
for name in buildah debootstrap flock; do command -v "$name" >/dev/null || missing+=("${name/flock/util-linux}"); done
apt-get update -qq >&2 # the release of the base
[ "${#missing[@]}" = 0 ] || apt-get install -y -qq --no-install-recommends --no-remove "${missing[@]}" </dev/null >&2

# The archive that this machine uses, and its point release: the cache key of the base.
target() { apt-get indextargets --format "$1" 'Created-By: Packages' 'Origin: Debian' 'Codename: bookworm' 'Component: main'; }
archive=$(target "\$(REPO_URI)" | head -n 1)
[ -n "$archive" ] || die "Debian 12 (bookworm) is not among this machine's package sources"
release=$(apt-cache policy | sed -n 's/.*release v=\(12[.0-9]*\),o=Debian,.*n=bookworm,.*/\1/p' | head -n 1)

mkdir -p "$cache"
exec 8>"$cache/image.lock" # one at a time: the downloads are shared
flock 8
work=$(mktemp -d "${TMPDIR:-/tmp}/img-classification-image.XXXXXX")
store=(--root "$work/store" --runroot "$work/run")
export BUILDAH_ISOLATION=chroot STORAGE_DRIVER=overlay
finish() {
  local status=$?
  buildah "${store[@]}" umount --all >/dev/null 2>&1 || true
  # The mounts of buildah, which would keep the folder from being removed.
  if mountpoint -q "$work/store/overlay"; then umount "$work/store/overlay"; fi
  rm -rf --one-file-system "$work"
  exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Like debian:bookworm-slim: the smallest system; dpkg and apt keep neither manuals nor downloads.
kept=$cache/debian-${release:-12}/base.tar.gz
if ! gzip -t "$kept" 2>/dev/null; then
  say "making the base, Debian ${release:-12}"
  debootstrap --variant=minbase bookworm "$work/base" "$archive" >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; die "debootstrap failed"; }
  rm -rf "$work"/base/usr/share/{doc,locale,man,info}/* "$work"/base/var/{lib/apt/lists,cache/apt,log}/*
  printf 'path-exclude /usr/share/%s/*\n' doc locale man info >"$work/base/etc/dpkg/dpkg.cfg.d/slim"
  printf 'Dir::Cache::pkgcache "";\nDir::Cache::srcpkgcache "";\n' >"$work/base/etc/apt/apt.conf.d/slim"
  mkdir -p "$work/base/var/cache/apt/archives/partial" "${kept%/*}"
  tar -C "$work/base" -cz . >"$kept.new"
  mv "$kept.new" "$kept" # atomic: a file of this name is complete
  rm -rf "$work/base"
fi
container=$(buildah "${store[@]}" from scratch)
buildah "${store[@]}" add -q "$container" "$kept" / >/dev/null
buildah "${store[@]}" commit -q --rm "$container" "$base" >/dev/null
