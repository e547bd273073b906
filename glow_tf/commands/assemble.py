"""Puts levels that were trained apart together: a preset of one model.

    glow-tf train --architecture=levels --only_part=1 --dataset=folder:PATH --workdir=runs/part_1
    glow-tf train --architecture=levels --only_part=2 --dataset=folder:PATH --workdir=runs/part_2
    glow-tf assemble --workdirs=runs/part_1,runs/part_2,… --output=presets/mine
    glow-tf evaluate --model=presets/mine --dataset=folder:PATH

Each part comes from the run that trained it, wherever that was; a run without --only_part gives the parts
that no other run has. The runs must have the same settings of the model and the same data. They need not be
finished: the best epoch counts, or the last, where no images are held out. A part that was trained again is
exchanged by another assembly.
"""

from absl import flags

from glow_tf.commands import model_flags


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_list("workdirs", [], "The workdirs of the runs, comma-separated.", flag_values=values)
    model_flags.define_output(values, output="")
    flags.DEFINE_enum(
        "weights_dtype", "float32", ("float16", "float32"), "How weights are kept.", flag_values=values
    )


def main(values: flags.FlagValues) -> None:
    folder = model_flags.output_folder(values)
    from glow_tf.store import save
    from glow_tf.use import assemble

    found = assemble(values.workdirs)
    save(found.flow, folder, found.about, values.weights_dtype)
    for k, source in enumerate(found.sources, start=1):
        print(f"part {k} from {source}")
    print(f"{folder}: glow-tf evaluate --model={folder} --dataset=… says the bits of each part.")
