"""Records a checkpoint written by TensorFlow, with Adam's moments: `python -m tests.support.record_tensorflow`.

Run with Python 3.11 and TensorFlow 2.21.0 on a CPU, by its interface of 2017 as the authors' program; the tests do not need it.
The cascade's last module and head are trained, as for the released model of 1024x2048, towards 0: the gradient of a variable is
the variable itself.
"""

from pathlib import Path

import numpy as np
import tensorflow.compat.v1 as tf

DATA = Path(__file__).parents[1] / "data"
WIDTHS, CLASSES, K, STEPS, FURTHER = {4: 3, 8: 2}, 4, 2, 5, 3


def main() -> None:
    tf.disable_eager_execution()
    rng = np.random.default_rng(0)
    shapes, before = {}, 0
    for height, width in WIDTHS.items():
        for conv, channels in (("conv1", CLASSES + before), ("conv2", width)):
            shapes[f"g_{height}_{conv}/weights"] = (3, 3, channels, width)
            shapes[f"g_{height}_{conv}/LayerNorm/beta"] = shapes[f"g_{height}_{conv}/LayerNorm/gamma"] = (width,)
        before = width
    shapes |= {"g_8_conv100/weights": (1, 1, before, 3 * K), "g_8_conv100/biases": (3 * K,)}
    variables = {name: tf.Variable(rng.standard_normal(shape, np.float32), name=name) for name, shape in shapes.items()}
    trained = [variable for name, variable in variables.items() if name.startswith("g_8")]
    step = tf.train.AdamOptimizer(1e-2).minimize(sum(tf.reduce_sum(v**2) / 2 for v in trained), var_list=trained)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for _ in range(STEPS):
            session.run(step)
        tf.train.Saver().save(session, str(DATA / "released.ckpt"), write_meta_graph=False, write_state=False)
        reader = tf.train.load_checkpoint(str(DATA / "released.ckpt"))
        values = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
        for _ in range(FURTHER):
            session.run(step)
        further = {f"further/{name}": value for name, value in session.run(variables).items()}
    np.savez_compressed(DATA / "released.npz", **values, **further)


if __name__ == "__main__":
    main()
