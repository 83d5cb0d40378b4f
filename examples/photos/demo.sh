#!/usr/bin/env bash
# Checks the 16 photographs of this folder and their texts, trains on them, then asks about three of them. Exports the model,
# imports the export, trains adapters on two more photographs, merges them, and asks the merged model. Fails if an answer is
# wrong.
#
#   examples/photos/demo.sh [FOLDER]      FOLDER of runs, by default nemo_experiments
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

runs=${1:-nemo_experiments}
neva_run=${CARGO_TARGET_DIR:-target}/release/neva-run
question="What is in the picture?"

if [[ ! -x $neva_run ]]; then
  echo "demo: $neva_run does not exist: run 'make build' first" >&2
  exit 1
fi

wrong=0
ask() { # OPTION MODEL IMAGE ANSWER
  local answer
  answer=$("$neva_run" generate "$1" "$2" --image "examples/photos/$3" --prompt "$question")
  echo "  $3: $answer"
  if [[ $answer != "$4" ]]; then
    echo "    it should be: $4"
    wrong=1
  fi
}

newest() { # NAME: folder of the newest run of a name; folders are named by their date
  local folders=("$runs/$1"/*/)
  echo "${folders[-1]%/}"
}

echo "Checking the data ..."
"$neva_run" data check examples/photos/recipe.yaml

echo
echo "Training on two ranks ..."
"$neva_run" examples/photos/recipe.yaml --set dir="$runs"
run=$(newest photos)

echo
echo "$question"
ask --checkpoint "$run" astronaut.jpg "An astronaut in an orange suit."
ask --checkpoint "$run" chelsea.jpg "A tabby cat."
ask --checkpoint "$run" coffee.jpg "A cup of coffee on a saucer."

echo
echo "Exporting to the format of transformers, and importing the export ..."
"$neva_run" export "$run" --output "$run/exported"
"$neva_run" import "$run/exported" --output "$run/imported"
ask --model "$run/imported" rocket.jpg "A rocket on its launch pad at dusk."

echo
echo "Training adapters on two photographs that this model has not seen ..."
"$neva_run" examples/photos/lora.yaml --set dir="$runs" --set finetune.resume.restore_config.path="$run/imported"
lora=$(newest photos_lora)

echo
echo "Merging the adapters ..."
"$neva_run" merge --adapter "$lora" --output "$lora/merged"

echo
echo "$question"
ask --model "$lora/merged" cell.jpg "A living cell under a microscope."
ask --model "$lora/merged" grass.jpg "Blades of grass, seen from above."

echo
echo "The run is in $run:"
echo "  logs/          output of each rank"
echo "  curves.svg     plots of loss, learning rate and gradient norm"
echo "  metrics.jsonl  loss, learning rate and speed of each step"
echo "  tb_logs/       the same for TensorBoard"
echo "  checkpoints/   checkpoints, used by generate above"
echo "  exported/      the model for transformers"
echo "That of the adapters is in $lora, with the model for transformers in merged/."

# Opened if there is a graphical screen.
if [[ -t 1 && -n ${DISPLAY:-}${WAYLAND_DISPLAY:-} ]] && command -v xdg-open >/dev/null; then
  xdg-open "$run/curves.svg" >/dev/null 2>&1 &
else
  echo
  echo "Plots of the curves: $run/curves.svg"
fi
exit "$wrong"
