#!/usr/bin/env bash
# Run the fast engine's tests on 64-bit ARM, emulated by QEMU, on Debian or Ubuntu as root:
#
#     apt-get install qemu-user-static binfmt-support debootstrap
#     bash tests/on_arm.sh [FOLDER [pytest's arguments …]]
#
# FOLDER (default build/arm) gets a Debian of some 300 MB, made once; Python's packages are the
# wheels that an ARM machine would install. Without arguments the tests that need no PyTorch are run.
# An emulated processor says whether the answers are right, and nothing about how fast they come.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
folder=$(realpath -m "${1:-$here/build/arm}")
tests=("${@:2}")
((${#tests[@]})) || tests=(tests/test_fast_kernels.py tests/test_fast_engine.py tests/test_demo.py)

for tool in debootstrap update-binfmts qemu-aarch64-static; do
    command -v "$tool" >/dev/null || { echo "$tool is missing: see the top of $0" >&2; exit 2; }
done
mountpoint -q /proc/sys/fs/binfmt_misc || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
update-binfmts --enable qemu-aarch64

root=$folder/root
mkdir -p "$folder"
if [ ! -e "$folder/made" ]; then
    if [ ! -e "$folder/unpacked" ]; then
        rm -rf "$root"
        debootstrap --arch=arm64 --foreign --variant=minbase --include=python3 bookworm "$root"
        touch "$folder/unpacked"
    fi
    cp "$(command -v qemu-aarch64-static)" "$root/usr/bin/"
    chroot "$root" /debootstrap/debootstrap --second-stage
    touch "$folder/made"
fi
if [ ! -e "$root/site" ]; then                                    # nothing of them runs while it is unpacked
    platforms=()
    for version in 2_17 2_24 2_27 2_28; do platforms+=(--platform "manylinux_${version}_aarch64"); done
    python3 -m pip install -q --target "$folder/site" --only-binary=:all: "${platforms[@]}" \
        --python-version 3.11 --implementation cp \
        numpy 'numba>=0.62' safetensors pillow tqdm pytest hypothesis pytest-timeout
    mv "$folder/site" "$root/site"
    echo /site > "$root/usr/lib/python3/dist-packages/wheels.pth"
fi
mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
trap 'umount "$root/proc"' EXIT

rm -rf "$root/project"
mkdir "$root/project"
(cd "$here" && git ls-files -z | xargs -0 cp --parents -t "$root/project")
chroot "$root" env HOME=/root sh -c '
    cd /project
    python3 -c "import platform, llvmlite.binding as l; from npresnet.fast import target
print(platform.machine(), l.get_host_cpu_name(), target.VL, target.NV, target.SIZES, target.FMA)"
    exec python3 -m pytest -q "$@"' sh "${tests[@]}"
