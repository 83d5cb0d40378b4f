#!/usr/bin/env bash
# Installs the launcher alone with `cargo install`, and runs it without the sources and without libtorch.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../../.."
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cargo install --path run --locked --root "$dir" --no-track
for program in "$dir"/bin/*; do
  if ldd "$program" | grep -q 'libtorch\|not found'; then
    echo "install: $program needs libtorch" >&2
    exit 1
  fi
done
cp recipes/neva_tiny.yaml "$dir"
cd "$dir"
env -u LIBTORCH bin/neva-run --version
env -u LIBTORCH bin/neva-run neva_tiny.yaml --dry-run >plan
grep -q neva_tiny plan
env -u LIBTORCH bin/neva-run render neva_tiny.yaml --executor slurm --set executor.rank_program=/opt/neva-rank | grep -q '#SBATCH'
echo "install: the launcher works"
