#!/bin/sh
# Makes the records behind the result tables of docs/results.md: ./experiments/reproduce.sh TABLE [SEED ...]
# SEED is 826 where none is given; docs/results.md has the tables below with the seeds behind their names.
#
#   yardstick 826 827 828   base, pruned network, assistant and students within 12 + 14 epochs; a base of 26
#   steps 826 827           other assistants and students, most of them earlier than the yardstick's
#   ablation 826            losses, regressors and starts of a student of 3 epochs, from the base of 12
#   criteria 826            four criteria and three ways to spread a budget, at equal MACs, one epoch; the figure of
#                           sensitivity is of the last seed given
#   curve 826               the original's 15 iterations, one epoch of fine-tuning each; one seed, the last given
#   exports 827             base and students of a finished yardstick in each format (needs requirements-export.txt);
#                           one seed, the last given
#   families 826            six networks of other kinds: base, half its MACs, a student of a quarter, int8
#   transfer 826            drawn pictures: a classifier of plain Keras, half its MACs, a student, int8
#   long 826                60 epochs of base, 35 pruned, 30 of assistant, 40 of student
#   demo                    `make demo`
#
# What would be run: python sweep.py experiments/sweeps/TABLE.yaml --print
# Models go to runs/TABLE, small records to experiments/records/TABLE; `make results` then rebuilds the tables.
# A command that was cut off goes on where it was, and a finished one does nothing, but for a few that only measure or
# report: start it as often as it takes. Each table is a sweep, experiments/sweeps/TABLE.yaml; `exports` is the last
# step of yardstick.yaml. Two are none: `transfer` begins with a script of its own, which no sweep knows, and `demo` is a
# target of the Makefile. Each seed has one base of 12 epochs: where it is trained again, the
# tables with that seed are whole again when all of them were made again; until then `make results` names the records
# that don't fit.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}

sweep() {  # sweep TABLE FLAG ...: the runs of experiments/sweeps/TABLE.yaml, with all seeds
    file=experiments/sweeps/$1.yaml
    shift
    # shellcheck disable=SC2086
    $PYTHON sweep.py "$file" "$@" --seeds $SEEDS
}

runs() {  # runs TABLE
    case $1 in
        transfer) ;;
        exports) sweep yardstick --step exported ;;
        yardstick) sweep yardstick --step base12 pruned assistant student alike base26 evaluation ;;
        *) sweep "$1" ;;
    esac
}

keep() {  # keep RUN RECORD: the small record of a finished run; a folder of images is named from here
    test -f "$1/result.json" || { echo "reproduce.sh: no $1/result.json, expected a finished run" >&2; exit 2; }
    mkdir -p "$2"
    sed "s|\"$PWD/|\"|" "$1/result.json" > "$2/result.json"
}

copy() {  # copy FILE FOLDER: a record of another kind
    test -f "$1" || { echo "reproduce.sh: no $1, expected a finished run" >&2; exit 2; }
    mkdir -p "$2"
    cp "$1" "$2"
}

rows() {  # rows TABLE SEED: the small records of all its runs that train, each a row of the table
    for row in "runs/$1/seed$2"/*/result.json; do
        row=$(basename "$(dirname "$row")")
        keep "runs/$1/seed$2/$row" "experiments/records/$1/$row/seed$2"
    done
}

shared() {  # shared RUN SEED: the record of a run of the yardstick that another table starts from
    keep "runs/yardstick/seed$2/$1" "experiments/records/yardstick/$1/seed$2"
}

tested() {  # tested TABLE SEED: the accuracies of its models on the test images
    copy "runs/$1/seed$2/evaluation.json" "experiments/records/$1/seed$2"
}

yardstick() {
    rows yardstick "$1"
    tested yardstick "$1"
}

steps() {
    shared base12 "$1"
    shared assistant "$1"
    rows steps "$1"
    tested steps "$1"
}

ablation() {
    shared base12 "$1"
    keep "runs/yardstick/seed$1/base12" "experiments/records/ablation/teacher/seed$1"
    rows ablation "$1"
}

criteria() {
    shared base12 "$1"
    rows criteria "$1"
    $PYTHON sensitivity.py --model_path "runs/yardstick/seed$1/base12/model.h5" --criterion l1 \
        --output experiments/records/criteria/sensitivity.json
}

curve() {
    shared base12 "$1"
    keep "runs/curve/seed$1" experiments/records/curve
}

exports() {
    for model in base12 alike student; do
        copy "runs/yardstick/seed$1/$model/exported/export.json" "experiments/records/exports/${model%12}"
    done
}

families() {
    for at in "runs/families/seed$1"/*/evaluation.json; do
        at=$(dirname "$at")
        to=experiments/records/families/$(basename "$at")
        for run in base pruned student; do keep "$at/$run" "${to}_$run/seed$1"; done
        copy "$at/student/exported/export.json" "${to}_int8/seed$1"
        copy "$at/evaluation.json" "${to}_test/seed$1"
    done
    $PYTHON report.py --root_folder "runs/families/seed$1" --output "runs/families/seed$1/report.html"
}

long() {
    rows long "$1"
    tested long "$1"
}

transfer() {  # the commands of docs/how-to/transfer-learning.md
    at=runs/transfer/seed$1 images="--dataset runs/transfer/photos --batch_size 32"
    $PYTHON experiments/transfer.py --dataset runs/transfer/photos --save_folder "$at/base" --seed "$1"
    keep "$at/base" "experiments/records/transfer/base/seed$1"
    # shellcheck disable=SC2086
    $PYTHON prune_model.py $images --base_model_path "$at/base/model.keras" --root_folder "$at/pruned" \
        --criterion taylor --target_macs 2x --prune_iter 1 --epoch_num 10 --learning_rate 0.01 --seed "$1"
    keep "$at/pruned" "experiments/records/transfer/pruned/seed$1"
    # shellcheck disable=SC2086
    $PYTHON knowledge_distillation.py $images --root_folder "$at/pruned/iter1" --save_folder "$at/student" \
        --student_blocks 1 1 2 1 1 --target_macs 1.5x --round_to 4 --epoch_num 15 --student_learning_rate 0.01 --seed "$1"
    keep "$at/student" "experiments/records/transfer/student/seed$1"
    # shellcheck disable=SC2086
    $PYTHON evaluate_model.py $images --output "$at/evaluation.json" --model_path "$at/base/model.keras" \
        "$at/pruned/iter1/model.h5" "$at/student/model.h5"
    # shellcheck disable=SC2086
    $PYTHON export_model.py $images --model_path "$at/student/model.h5" --format litert-int8
    mkdir -p "experiments/records/transfer/seed$1"
    cp "$at/evaluation.json" "$at/student/exported/export.json" "experiments/records/transfer/seed$1/"
    $PYTHON report.py --root_folder "$at" --output "$at/report.html"
}

demo() {
    make demo
    mkdir -p experiments/records/demo
    cp model/demo/results.json experiments/records/demo/evaluation.json
}

table=${1:-}
[ $# -gt 0 ] && shift
case $table in
    -h | --help) sed -n '2,/^set /{s/^# \{0,1\}//p;}' "$0" ;;
    demo) demo ;;
    yardstick | steps | ablation | criteria | curve | exports | families | transfer | long)
        SEEDS=${*:-826}
        for seed in $SEEDS; do
            case $seed in
                0?* | *[!0-9]*)
                    echo "reproduce.sh: received '$*', expected seeds such as 826" >&2
                    exit 2 ;;
            esac
        done
        runs "$table"
        for seed in $SEEDS; do "$table" "$seed"; done ;;
    *)
        echo "reproduce.sh: received '$table', expected yardstick, steps, ablation, criteria, curve, exports," \
            "families, transfer, long or demo" >&2
        exit 2 ;;
esac
