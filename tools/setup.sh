#!/bin/sh
# Installs what building and testing need, or says in one line how to. Changes nothing when all is there.
#
#   sh tools/setup.sh            compiler, linker, Rust targets, dtc, QEMU
#   sh tools/setup.sh firmware   Debian's boot code of the Raspberry Pi, into build/firmware
#   sh tools/setup.sh busybox    Debian's arm64 busybox, into build/busybox (the host is not touched)
#   sh tools/setup.sh herd       herd7 of Debian unstable with a libc of its own, into build/herd, or the one in PATH
#   sh tools/setup.sh linux      Debian's Linux for arm64 virtual machines, into build/linux (the host is not touched)
#   sh tools/setup.sh chromium   Debian's Chromium, which make report CHECK=1 opens the report in
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

# Fetches packages of Debian and unpacks them into one root: PACKAGES SECTION FOLDER [SUITE ARCHITECTURE]. For PACKAGES of
# "for NAME" those that NAME, itself empty, asks for. Apt's own sources stay as they are. Fails where Debian's archive is
# not known or does not answer.
unpacked() {
    keys=/usr/share/keyrings/debian-archive-keyring.gpg
    command -v apt-get >/dev/null && [ -e "$keys" ] || return 1
    apt=$(pwd)/build/apt-${3##*/}
    architecture=${5:-arm64}
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$3"
    : >"$apt/status"
    echo "deb [signed-by=$keys] http://deb.debian.org/debian ${4:-bookworm} $2" >"$apt/sources.list"
    status=1
    packages=$1
    if foreign_apt get update >&2 && packages=$(asked_for $packages) &&
        (cd "$3" && rm -f ./*.deb && foreign_apt get download $packages >&2); then
        status=0
        for package in "$3"/*.deb; do
            dpkg -x "$package" "$3/root" || status=1
        done
    fi
    rm -rf "$apt"
    return "$status"
}

# The words of the line, or what the package of "for PACKAGE" depends on.
asked_for() {
    if [ "$1" = for ]; then
        foreign_apt cache depends --important "$2" | sed -n 's/^ *Depends: //p' | grep .
    else
        echo "$@"
    fi
}

# apt-get or apt-cache with a state of its own, for another architecture or suite.
foreign_apt() {
    tool=apt-$1
    shift
    "$tool" -q -o APT::Architecture="$architecture" -o APT::Architectures="$architecture" -o APT::Sandbox::User=root \
        -o Dir::State="$apt" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" \
        -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null "$@"
}

busybox() {
    [ -x build/busybox/busybox ] && return
    if unpacked busybox-static main build/busybox; then
        cp build/busybox/root/bin/busybox build/busybox/busybox
    else
        say "busybox could not be fetched from Debian's archive: its tests are SKIPPED"
    fi
}

# The Raspberry Pi's boot code.
firmware() {
    [ -e build/firmware/raspi/start4.elf ] && return
    say "fetching raspi-firmware, by: deb http://deb.debian.org/debian bookworm non-free-firmware"
    unpacked raspi-firmware non-free-firmware build/firmware || die "raspi-firmware could not be fetched from Debian's archive; take start4.elf and fixup4.dat from github.com/raspberrypi/firmware and name their folder: FIRMWARE=folder"
    mkdir -p build/firmware/raspi
    for file in start4.elf fixup4.dat; do
        cp "build/firmware/root/usr/lib/raspi-firmware/$file" build/firmware/raspi/
    done
    find build/firmware/root -name bcm2711-rpi-4-b.dtb -exec cp {} build/firmware/raspi/ \;
}

# The kernel that Lazuli is compared with. The package is one that points at today's.
linux() {
    ls build/linux/root/boot/vmlinuz-* >/dev/null 2>&1 && return
    say "fetching linux-image-cloud-arm64, by: deb http://deb.debian.org/debian trixie main"
    unpacked "for linux-image-cloud-arm64" main build/linux trixie || die "Debian's kernel could not be fetched from its archive; unpack a package linux-image-*-arm64 (dpkg -x) and name its kernel: LINUX_IMAGE=.../boot/vmlinuz-*"
}

# herd7 wants a newer libc than stable has: it runs on the one unpacked beside it.
herd() {
    [ -x build/herd/herd7 ] && return
    if command -v herd7 >/dev/null; then
        mkdir -p build/herd
        ln -sf "$(command -v herd7)" build/herd/herd7
        return
    fi
    say "fetching herdtools7, by: deb http://deb.debian.org/debian sid main"
    unpacked "herdtools7 libc6 libgmp10" main build/herd sid "$(dpkg --print-architecture)" || die "herd7 could not be fetched from Debian's archive; install herdtools7 7.58 or newer (opam install herdtools7) so that herd7 is in PATH"
    cat >build/herd/herd7 <<'END'
#!/bin/sh
root=$(dirname "$0")/root
for libraries in "$root"/usr/lib/*-linux-gnu*; do
    for loader in "$libraries"/ld-linux-*.so.*; do
        exec "$loader" --library-path "$libraries" "$root/usr/bin/herd7" -set-libdir "$root/usr/share/herdtools7/herd" "$@"
    done
done
END
    chmod +x build/herd/herd7
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
    herd) herd ;;
    linux) linux ;;
    chromium) command -v chromium >/dev/null || install "Chromium" chromium ;;
    *) die "unknown word $1" ;;
esac
