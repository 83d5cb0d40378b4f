#!/bin/sh
# Runs the engine's tests with the kernels that other CPUs would choose, as far as this one has their instructions.
#
#   engine/tests/cpu_capabilities.sh            every kind
#   engine/tests/cpu_capabilities.sh NAME=VALUE ...   only these
#
# libtorch's own kernels are chosen by ATEN_CPU_CAPABILITY, oneDNN's by ONEDNN_MAX_CPU_ISA. Every kind is tried; those
# that failed are named at the end.
set -u
cargo=${CARGO:-cargo}
has() { grep -q -m 1 "^flags.* $1\( \|\$\)" /proc/cpuinfo; }

if [ $# -eq 0 ]; then
    set -- ATEN_CPU_CAPABILITY=default
    # libtorch takes the named kernels whether the CPU has the instructions or not. Those of AVX2 fail on a CPU with AMX, for which
    # attention packs values with AVX-512.
    has amx_tile || ! has avx2 || set -- "$@" ATEN_CPU_CAPABILITY=avx2
    has avx2 && set -- "$@" ONEDNN_MAX_CPU_ISA=AVX2
    has avx512f && set -- "$@" ATEN_CPU_CAPABILITY=avx512 ONEDNN_MAX_CPU_ISA=AVX512_CORE
    has avx512_bf16 && set -- "$@" ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16
    set -- "$@" ONEDNN_MAX_CPU_ISA=DEFAULT
fi
failed=
for kind in "$@"; do
    started=$(date +%s)
    if env "$kind" PROPTEST_RNG_SEED=1 "$cargo" test --release --workspace --test engine --test golden --no-fail-fast; then
        outcome=passed
    else
        outcome=failed
        failed="$failed $kind"
    fi
    echo "$kind: $outcome after $(($(date +%s) - started)) s"
done
if [ -n "$failed" ]; then
    echo "failed:$failed" >&2
    exit 1
fi
