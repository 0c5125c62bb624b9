#!/bin/sh
# Installs what building and testing need, or says in one line how to. Changes nothing when all is there.
#
#   sh tools/setup.sh            compiler, linker, Rust targets, dtc, QEMU
#   sh tools/setup.sh firmware   Debian's boot code of the Raspberry Pi, into build/firmware
#   sh tools/setup.sh busybox    Debian's arm64 busybox, into build/busybox (the host is not touched)
set -eu

say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 1; }

# Runs a line of shell as root; says it where that cannot be.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        say "$1"
        sh -c "$1"
    elif command -v sudo >/dev/null; then
        say "sudo: $1"
        sudo sh -c "$1" || die "sudo refused or failed; as root run: $1"
    else
        die "neither root nor sudo; as root run: $1"
    fi
}

# install WHAT PACKAGES [BEFORE]: by apt-get, once the shell line BEFORE is done; or says what to install.
install() {
    command -v apt-get >/dev/null || die "$1 is missing; install it with this system's package manager"
    as_root "${3:-}apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $2"
}

rust() {
    if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
        die "Rust is not in PATH; run: . \$HOME/.cargo/env"
    fi
    command -v cargo >/dev/null || die "Rust is missing; run: curl https://sh.rustup.rs -sSf | sh -s -- -y"
    libraries=$(rustc --print sysroot)/lib/rustlib
    for target in aarch64-unknown-none-softfloat aarch64-unknown-linux-musl; do
        [ -d "$libraries/$target" ] && continue
        command -v rustup >/dev/null || die "Rust target $target is missing, and no rustup to add it; see https://rustup.rs"
        say "rustup target add $target"
        rustup target add "$target"
    done
    for tool in cargo-clippy cargo-fmt; do
        command -v "$tool" >/dev/null && "$tool" --version >/dev/null 2>&1 && continue
        rustup component add clippy rustfmt
    done
}

linker() {
    command -v cc >/dev/null || install "a C linker (gcc and libc6-dev)" "gcc libc6-dev"
}

device_tree_compiler() {
    command -v dtc >/dev/null || install "the device tree compiler (dtc)" device-tree-compiler
}

# The major version of the installed QEMU; nothing if there is none.
qemu_version() {
    qemu-system-aarch64 --version 2>/dev/null | sed -n '1s/.*version \([0-9]*\)\..*/\1/p'
}

# Debian 12 has QEMU 7.2; its backports have one with the Raspberry Pi 4. Prints the line that makes them known.
backports() {
    apt-cache policy | grep -q bookworm-backports && return
    mirror=$(apt-cache policy | sed -n 's|^ *[0-9]* \(http[^ ]*\) bookworm/main .*|\1|p' | head -n 1)
    line="deb ${mirror:-http://deb.debian.org/debian} bookworm-backports main"
    echo "echo '$line' >/etc/apt/sources.list.d/bookworm-backports.list && "
}

qemu() {
    version=$(qemu_version)
    [ "${version:-0}" -ge 9 ] && return
    if grep -qs '^VERSION_CODENAME=bookworm' /etc/os-release && command -v apt-get >/dev/null; then
        install "QEMU" "-t bookworm-backports qemu-system-arm" "$(backports)"
    elif [ -z "$version" ]; then
        install "QEMU for Arm (qemu-system-aarch64, 9.0 or newer)" qemu-system-arm
    fi
    version=$(qemu_version)
    [ -n "$version" ] || die "qemu-system-aarch64 is still missing; install QEMU 9.0 or newer for Arm"
    [ "$version" -ge 9 ] || say "QEMU $version is older than 9.0: virt runs, the Raspberry Pi 4's part is SKIPPED"
}

# apt with a state of its own, for another architecture.
foreign_apt() {
    apt-get -q -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User=root \
        -o Dir::State="$apt" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" \
        -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null "$@"
}

busybox() {
    [ -x build/busybox/busybox ] && return
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    if ! command -v apt-get >/dev/null || [ ! -e "$keys" ]; then
        say "no Debian archive here: the busybox tests are SKIPPED"
        return
    fi
    apt=$(pwd)/build/apt
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" build/busybox
    : >"$apt/status"
    echo "deb [signed-by=$keys] http://deb.debian.org/debian bookworm main" >"$apt/sources.list"
    if foreign_apt update >&2 && (cd build/busybox && foreign_apt download busybox-static >&2); then
        dpkg -x build/busybox/busybox-static_*.deb build/busybox/root
        cp build/busybox/root/bin/busybox build/busybox/busybox
    else
        say "busybox could not be fetched: its tests are SKIPPED"
    fi
    rm -rf "$apt"
}

# The Raspberry Pi's boot code, from Debian's section non-free-firmware; apt's own sources stay as they are.
firmware() {
    [ -e build/firmware/raspi/start4.elf ] && return
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    source="deb http://deb.debian.org/debian bookworm non-free-firmware"
    if ! command -v apt-get >/dev/null || [ ! -e "$keys" ]; then
        die "no Debian archive here; fetch start4.elf and fixup4.dat of github.com/raspberrypi/firmware and name their folder: FIRMWARE=folder"
    fi
    say "fetching raspi-firmware, by: $source"
    apt=$(pwd)/build/apt-firmware
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" build/firmware/raspi
    : >"$apt/status"
    echo "deb [signed-by=$keys] ${source#deb }" >"$apt/sources.list"
    if foreign_apt update >&2 && (cd build/firmware && foreign_apt download raspi-firmware >&2); then
        dpkg -x build/firmware/raspi-firmware_*.deb build/firmware/root
        for file in start4.elf fixup4.dat; do
            cp "build/firmware/root/usr/lib/raspi-firmware/$file" build/firmware/raspi/
        done
        find build/firmware/root -name bcm2711-rpi-4-b.dtb -exec cp {} build/firmware/raspi/ \;
    else
        die "raspi-firmware could not be fetched; name a folder that has start4.elf and fixup4.dat: FIRMWARE=folder"
    fi
    rm -rf "$apt"
}

case ${1:-} in
    "")
        rust
        linker
        device_tree_compiler
        qemu
        ;;
    busybox) busybox ;;
    firmware) firmware ;;
    *) die "unknown word $1" ;;
esac
