#!/bin/sh
# Makes the records behind the README's result tables: ./reproduce.sh TABLE [SEED ...]
#   ./reproduce.sh yardstick 826 827 828     base, pruned teacher and student at 12 + 14 epochs, and a base of 26
# Models go to runs/TABLE, small records to results/TABLE; `make results` then rebuilds the tables. A command that was
# cut off goes on where it was, and a finished one does nothing: start it as often as it takes.
set -eu
cd "$(dirname "$0")"
PYTHON=${PYTHON:-.venv/bin/python}

keep() {  # keep RUN RECORD: the small record of a finished run
    mkdir -p "$2"
    cp "$1/result.json" "$2/result.json"
}

yardstick() {
    at=runs/yardstick/seed$1
    $PYTHON train_base_model.py --epoch_num 12 --seed "$1" --save_folder "$at/base12"
    keep "$at/base12" "results/yardstick/base12/seed$1"
    $PYTHON knowledge_distillation.py --root_folder "$at/base12" --save_folder "$at/student" --epoch_num 14 \
        --seed "$1" --student_learning_rate 0.05 --lambda2 0 --lambda3 0
    keep "$at/student" "results/yardstick/student/seed$1"
    $PYTHON prune_model.py --base_model_path "$at/base12/model.h5" --root_folder "$at/pruned" --prune_iter 2 \
        --epoch_num 7 --target_compression 1.8 --round_to 8 --seed "$1"
    keep "$at/pruned" "results/yardstick/pruned/seed$1"
    $PYTHON train_base_model.py --epoch_num 26 --seed "$1" --save_folder "$at/base26"
    keep "$at/base26" "results/yardstick/base26/seed$1"
    $PYTHON evaluate_model.py --output "$at/evaluation.json" --model_path "$at/base12/model.h5" \
        "$at/base26/model.h5" "$at/pruned/iter2/model.h5" "$at/student/model.h5"
    mkdir -p "results/yardstick/seed$1"
    cp "$at/evaluation.json" "results/yardstick/seed$1/evaluation.json"
}

table=${1:-}
[ $# -gt 0 ] && shift
case $table in
    yardstick)
        for seed in "${@:-826}"; do yardstick "$seed"; done ;;
    *)
        echo "reproduce.sh: received '$table', expected yardstick" >&2
        exit 2 ;;
esac
