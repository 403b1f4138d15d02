#!/bin/sh
# Makes the records behind the result tables of docs/results.md: ./experiments/reproduce.sh TABLE [SEED ...]
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
# Models go to runs/TABLE, small records to experiments/records/TABLE; `make results` then rebuilds the tables.
# A command that was cut off goes on where it was, and a finished one does nothing, but for those that only measure:
# start it as often as it takes. Tables that try values of flags are sweeps (experiments/sweeps); the others are chains of
# single commands, which a shell says as shortly. Each seed has one base of 12 epochs: where it is trained again, the
# tables with that seed are whole again when all of them were made again; until then `make results` names the records
# that don't fit.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}

# the defaults, written out so that records stay comparable when a default changes
STUDENT="--optimizer muon --student_learning_rate 0.05 --lambda1 0.5 --hard_label_weight 0.6"
# a teacher's assistant with maps twice as wide and fewer MACs than the base, and a student of an eighth of the base's MACs
WIDE="--student_stem half --target_compression 1 --target_macs 78.7M --stage_tilt 0.85 --round_to 16"
NARROW="--student_stem half --target_compression 12.82 --target_macs 9.83M --stage_tilt 0.85 --round_to 8 --lambda1 0.3 --hard_label_weight 1"
FEWER="--student_blocks 2 2 2 2 --crop_padding 2"
ASSISTANT="$WIDE --lambda1 0.1 --hard_label_weight 1"
SMALL="$NARROW $FEWER --mirror_teacher --lambda1 2 --teacher_annealing"
PRUNED="--learning_rate 0.05 --criterion taylor --target_macs 2x --round_to 8"

keep() {  # keep RUN RECORD: the small record of a finished run; a folder of images is named from here
    mkdir -p "$2"
    sed "s|\"$PWD/|\"|" "$1/result.json" > "$2/result.json"
}

base() {  # base SEED: the 12 epochs that all tables but the long one start from
    $PYTHON train_base_model.py --epoch_num 12 --seed "$1" --save_folder "runs/yardstick/seed$1/base12"
    keep "runs/yardstick/seed$1/base12" "experiments/records/yardstick/base12/seed$1"
}

evaluate() {  # evaluate TABLE SEED FOLDER ...: the models of a table on the test images, side by side
    at=runs/$1/seed$2 to=experiments/records/$1/seed$2
    shift 2
    for folder in "$@"; do
        set -- "$@" "$at/$folder/model.h5"
        shift
    done
    $PYTHON evaluate_model.py --images 1000 --output "$at/evaluation.json" --model_path "$@"
    mkdir -p "$to"
    cp "$at/evaluation.json" "$to/evaluation.json"
}

assistant() {  # assistant TABLE SEED BASE EPOCHS
    # shellcheck disable=SC2086
    $PYTHON knowledge_distillation.py --root_folder "runs/$1/seed$2/$3" --save_folder "runs/$1/seed$2/assistant" \
        --epoch_num "$4" --seed "$2" $STUDENT $ASSISTANT
    keep "runs/$1/seed$2/assistant" "experiments/records/$1/assistant/seed$2"
}

compress() {  # compress TABLE SEED BASE EPOCHS EPOCHS EPOCHS FLAG ...: pruned network, assistant and its student, in
    at=runs/$1/seed$2 table=$1 seed=$2 epochs=$6  # these epochs, the student with these further flags
    # shellcheck disable=SC2086
    $PYTHON prune_model.py --base_model_path "$at/$3/model.h5" --root_folder "$at/pruned" --prune_iter 1 \
        --epoch_num "$4" $PRUNED --seed "$2"
    keep "$at/pruned" "experiments/records/$1/pruned/seed$2"
    assistant "$1" "$2" "$3" "$5"
    shift 6
    # shellcheck disable=SC2086
    $PYTHON knowledge_distillation.py --root_folder "$at/assistant" --save_folder "$at/student" --epoch_num "$epochs" \
        --seed "$seed" $STUDENT $SMALL "$@"
    keep "$at/student" "experiments/records/$table/student/seed$seed"
}

yardstick() {
    base "$1"
    compress yardstick "$1" base12 7 6 8
    at=runs/yardstick/seed$1
    # shellcheck disable=SC2086
    $PYTHON knowledge_distillation.py --root_folder "$at/base12" --save_folder "$at/alike" --epoch_num 14 \
        --seed "$1" $STUDENT
    keep "$at/alike" "experiments/records/yardstick/alike/seed$1"
    $PYTHON train_base_model.py --epoch_num 26 --seed "$1" --save_folder "$at/base26"
    keep "$at/base26" "experiments/records/yardstick/base26/seed$1"
    evaluate yardstick "$1" base12 base26 pruned/iter1 alike assistant student
}

step() {  # step SEED TEACHER ROW EPOCHS FLAG ...: an assistant or a student that the yardstick's were made from
    seed=$1 teacher=$2 row=$3 epochs=$4
    shift 4
    # shellcheck disable=SC2086
    $PYTHON knowledge_distillation.py --root_folder "$teacher" --save_folder "runs/steps/seed$seed/$row" \
        --epoch_num "$epochs" --seed "$seed" $STUDENT "$@"
    keep "runs/steps/seed$seed/$row" "experiments/records/steps/$row/seed$seed"
}

steps() {
    base "$1"
    before=runs/steps/seed$1/assistant
    # shellcheck disable=SC2086
    step "$1" "runs/yardstick/seed$1/base12" assistant 6 $WIDE
    # shellcheck disable=SC2086
    step "$1" "runs/yardstick/seed$1/base12" annealed 6 $WIDE --lambda1 1 --hard_label_weight 1 --teacher_annealing
    # shellcheck disable=SC2086
    step "$1" "$before" student 8 $NARROW
    # shellcheck disable=SC2086
    step "$1" "$before" blocks 8 $NARROW --student_blocks 2 2 2 2
    # shellcheck disable=SC2086
    step "$1" "$before" shift 8 $NARROW $FEWER
    assistant yardstick "$1" base12 6
    # shellcheck disable=SC2086
    step "$1" "runs/yardstick/seed$1/assistant" mirror 8 $NARROW $FEWER --mirror_teacher
    # shellcheck disable=SC2086
    step "$1" "runs/yardstick/seed$1/assistant" soft 8 $NARROW $FEWER --mirror_teacher --lambda1 1 --hard_label_weight 0.5
    # shellcheck disable=SC2086
    step "$1" "runs/yardstick/seed$1/assistant" labels 8 $NARROW $FEWER --lambda1 0
    # shellcheck disable=SC2086
    step "$1" "runs/yardstick/seed$1/base12" alone 14 $SMALL
    evaluate steps "$1" mirror
}

sweep() {  # sweep TABLE SEED: a table that tries values of flags, experiments/sweeps/TABLE.yaml, and the base of its runs
    $PYTHON sweep.py "experiments/sweeps/$1.yaml" --seeds "$2"
    keep "runs/yardstick/seed$2/base12" "experiments/records/yardstick/base12/seed$2"
}

rows() {  # rows TABLE SEED: the small records of a sweep's rows
    for row in "runs/$1/seed$2"/*/result.json; do
        row=$(basename "$(dirname "$row")")
        keep "runs/$1/seed$2/$row" "experiments/records/$1/$row/seed$2"
    done
}

ablation() {
    sweep ablation "$1"
    keep "runs/yardstick/seed$1/base12" "experiments/records/ablation/teacher/seed$1"
    rows ablation "$1"
}

criteria() {
    sweep criteria "$1"
    rows criteria "$1"
    $PYTHON sensitivity.py --model_path "runs/yardstick/seed$1/base12/model.h5" --criterion l1 \
        --output experiments/records/criteria/sensitivity.json
}

curve() {
    sweep curve "$1"
    keep "runs/curve/seed$1" experiments/records/curve
}

exports() {
    at=runs/yardstick/seed$1
    for model in base12 alike student; do
        $PYTHON export_model.py --model_path "$at/$model/model.h5" --latency_runs 1000 \
            --format onnx litert litert-int8
        mkdir -p "experiments/records/exports/${model%12}"
        cp "$at/$model/exported/export.json" "experiments/records/exports/${model%12}/export.json"
    done
}

# family SEED IMAGES RATE ARCHITECTURE [RATE]: a network all the way on so many images; rates of the base, of the student
family() {
    seed=$1 images=$2 rate=$3 name=$4 at=runs/families/seed$1/$4
    $PYTHON train_base_model.py --architecture "$name" --subset "$images" --epoch_num 8 --batch_size 64 --seed "$seed" \
        --learning_rate "$rate" --save_folder "$at/base"
    keep "$at/base" "experiments/records/families/${name}_base/seed$seed"
    $PYTHON prune_model.py --base_model_path "$at/base/model.h5" --root_folder "$at/pruned" --criterion taylor \
        --target_macs 2x --prune_iter 1 --learning_rate 0.01 --subset "$images" --epoch_num 3 --batch_size 64 --seed "$seed"
    keep "$at/pruned" "experiments/records/families/${name}_pruned/seed$seed"
    $PYTHON knowledge_distillation.py --root_folder "$at/base" --save_folder "$at/student" --target_macs 4x --round_to 4 \
        --student_learning_rate "${5:-0.02}" --subset "$images" --epoch_num 6 --batch_size 64 --seed "$seed"
    keep "$at/student" "experiments/records/families/${name}_student/seed$seed"
    $PYTHON export_model.py --model_path "$at/student/model.h5" --format litert-int8 --subset "$images"
    mkdir -p "experiments/records/families/${name}_int8/seed$seed"
    cp "$at/student/exported/export.json" "experiments/records/families/${name}_int8/seed$seed/export.json"
    evaluate families "$seed" "$name/base" "$name/pruned/iter1" "$name/student"
    mkdir -p "experiments/records/families/${name}_test/seed$seed"
    mv "experiments/records/families/seed$seed/evaluation.json" "experiments/records/families/${name}_test/seed$seed/"
}

families() {  # the larger ones on half the images
    family "$1" 10000 0.05 resnet56
    for name in MobileNetV2 EfficientNetB0; do family "$1" 10000 0.01 $name; done
    family "$1" 5000 0.01 VGG16 0.003  # at 0.02 the loss of a student without batch-norm becomes NaN
    family "$1" 5000 0.01 ConvNeXtTiny
    family "$1" 5000 0.05 DenseNet121
    $PYTHON report.py --root_folder "runs/families/seed$1" --output "runs/families/seed$1/report.html"
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

long() {
    at=runs/long/seed$1
    $PYTHON train_base_model.py --epoch_num 60 --seed "$1" --save_folder "$at/base"
    keep "$at/base" "experiments/records/long/base/seed$1"
    compress long "$1" base 35 30 40 --crop_padding 4  # it sees each image 40 times, not 8
    evaluate long "$1" base pruned/iter1 assistant student
}

demo() {
    make demo
    mkdir -p experiments/records/demo
    cp model/demo/results.json experiments/records/demo/evaluation.json
}

table=${1:-}
[ $# -gt 0 ] && shift
case $table in
    demo) demo ;;
    yardstick | steps | ablation | criteria | curve | exports | families | transfer | long)
        for seed in "${@:-826}"; do "$table" "$seed"; done ;;
    *)
        echo "reproduce.sh: received '$table', expected yardstick, steps, ablation, criteria, curve, exports," \
            "families, transfer, long or demo" >&2
        exit 2 ;;
esac
