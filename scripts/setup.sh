#!/usr/bin/env bash
# Makes .venv ready for work on OmniStream: Python 3.12, everything in requirements.txt, our own parts as editable installs,
# and the system libraries they load. Run it as often as you like: when nothing has changed it is done at once and needs no
# network. For Linux on x86_64; elsewhere the library alone installs with `pip install -e '.[all]'`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly VENV=.venv
readonly STAMP=$VENV/.omnistream-setup
readonly PARTS=(. policies sim) # our own distributions; those that are here are installed

say() { printf 'setup: %s\n' "$*" >&2; }

die() {
  say "$*"
  exit 1
}

# ---- system packages (Debian's and Ubuntu's names) ----

# What we need of the system: a library or a command, and the package that brings it.
readonly SYSTEM_NEEDS='
library libusb-1.0.so.0 libusb-1.0-0
library libEGL.so.1     libegl1
library libGL.so.1      libgl1
library libOSMesa.so    libosmesa6
command cmake           cmake
command ninja           ninja-build
command g++             g++
'

missing_packages() {
  local kind name package libraries
  libraries=$(PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null || true)
  while read -r kind name package; do
    case $kind in
      library) [[ $libraries == *"$name"* ]] || echo "$package" ;;
      command) command -v "$name" >/dev/null || echo "$package" ;;
    esac
  done <<<"$SYSTEM_NEEDS"
}

# apt-get as root, without questions; fails where we may not be root.
apt_get() {
  local as_root=()
  ((EUID == 0)) || as_root=(sudo -n)
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq "$@" >/dev/null
}

may_install_packages() {
  command -v apt-get >/dev/null && { ((EUID == 0)) || sudo -n true 2>/dev/null; }
}

install_packages() {
  local package
  say "installing system packages: $*"
  apt_get update || say "the package lists could not be renewed"
  for package; do # one by one: a name that this release lacks must not keep out the others
    apt_get install -y --no-install-recommends "$package" || say "could not install $package"
  done
}

name_missing_packages() {
  local missing
  missing=$(missing_packages | xargs)
  [[ -z $missing ]] || say "these system packages are missing: $missing (as root: apt-get install $missing)"
}

ensure_system_packages() {
  local missing
  mapfile -t missing < <(missing_packages)
  ((${#missing[@]})) || return 0
  if may_install_packages; then
    install_packages "${missing[@]}"
  fi
  name_missing_packages
}

# ---- Python and uv ----

is_python() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' >/dev/null 2>&1; }

# A Python 3.12 that runs (the one on PATH may be a pyenv shim that does not); else its version, for uv to find or fetch.
find_python() {
  local python
  for python in python3.12 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python3.12 /usr/bin/python3.12 python3; do
    if is_python "$python"; then
      command -v "$python"
      return
    fi
  done
  echo 3.12
}

# Puts uv into .uv, in a virtual environment or, where Python comes without the means to make one, a plain folder.
bootstrap_uv() {
  local python=$1 release
  command -v "$python" >/dev/null || python=python3
  command -v "$python" >/dev/null || die "needs uv, or any Python 3 with pip to install uv with"
  release=$(grep '^uv==' requirements.txt)
  say "installing $release into .uv"
  rm -rf .uv
  if "$python" -m venv .uv >/dev/null 2>&1; then
    .uv/bin/python -m pip install --quiet "$release"
  else
    rm -rf .uv
    "$python" -m pip install --quiet --target .uv "$release"
  fi
  echo '*' >.uv/.gitignore
}

find_uv() {
  local python=$1 uv
  for uv in uv .uv/bin/uv "$VENV/bin/uv" "$HOME/.local/bin/uv"; do
    if "$uv" --version >/dev/null 2>&1; then
      command -v "$uv"
      return
    fi
  done
  bootstrap_uv "$python" >&2
  echo .uv/bin/uv
}

ensure_venv() {
  local uv=$1 python=$2
  is_python "$VENV/bin/python" && return
  say "making $VENV with Python $python"
  "$uv" venv --quiet --clear --python "$python" "$VENV"
}

name_missing_headers() {
  local include
  include=$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  [[ -e $include/Python.h ]] || say "no Python.h in $include: building ROS interfaces needs it (Debian, Ubuntu: python3.12-dev)"
}

# ---- packages ----

# requirements.txt is whole, so nothing is resolved here (--no-deps), and the build tools are in it.
install_python_packages() {
  local uv=$1 part
  say "installing requirements.txt"
  "$uv" pip install --quiet --python "$VENV/bin/python" --no-deps -r requirements.txt
  "$VENV/bin/python" scripts/fix_ros_wheels.py >&2
  for part in "${PARTS[@]}"; do
    [[ -e $part/setup.py || -e $part/pyproject.toml ]] || continue
    say "installing $part"
    "$uv" pip install --quiet --python "$VENV/bin/python" --no-deps --no-build-isolation -e "$part"
  done
}

# Changes whenever something that decides what is installed does.
fingerprint() {
  local files=(requirements.txt scripts/setup.sh scripts/fix_ros_wheels.py) part file
  for part in "${PARTS[@]}"; do
    for file in "$part/setup.py" "$part/pyproject.toml"; do
      [[ -e $file ]] && files+=("$file")
    done
  done
  { pwd && sha256sum "${files[@]}"; } | sha256sum
}

is_set_up() {
  [[ -x $VENV/bin/python && -e $STAMP && $(<"$STAMP") == "$(fingerprint)" ]]
}

main() {
  local python uv
  if is_set_up; then
    name_missing_packages
    return
  fi
  [[ $(uname -sm) == "Linux x86_64" ]] || die "requirements.txt is for Linux on x86_64; here: pip install -e '.[all]'"
  ensure_system_packages
  python=$(find_python)
  uv=$(find_uv "$python")
  ensure_venv "$uv" "$python"
  name_missing_headers
  install_python_packages "$uv"
  fingerprint >"$STAMP"
  say "done"
}

main "$@"
