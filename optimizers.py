"""The optimiser of networks: SGD with Nesterov momentum and decoupled weight decay, in few passes over memory."""

import keras


class FusedSGD(keras.optimizers.SGD):
    """SGD with Nesterov momentum and decoupled weight decay; the decay leaves biases and batch-norm alone.

    The same numbers as keras.optimizers.SGD(nesterov=True, weight_decay=...) gives. Under TensorFlow, momentum and
    update are one operation in place, where Keras' take nine passes over all weights.

    v <- momentum v - rate g;  w <- w (1 - rate decay) + momentum v - rate g.
    Sutskever et al. 2013, On the importance of initialization and momentum, section 2; Loshchilov and Hutter 2019,
    arXiv 1711.05101, algorithm 1.

    Args:
        learning_rate: number or schedule.
        momentum: above 0 and below 1.
        decay: of kernels, times the learning rate, each step.
    """

    def __init__(self, learning_rate, momentum=0.9, decay=0.0, **kwargs):
        super().__init__(learning_rate, momentum=momentum, nesterov=True, **kwargs)
        self.decay = decay

    def update_step(self, gradient, variable, learning_rate):
        """Keras' hook: one step of one variable."""
        place = self._get_variable_index(variable)
        if self.decay and self._trainable_variables[place].name not in ("bias", "gamma", "beta"):
            self.assign(variable, variable * (1 - learning_rate * self.decay))
        if keras.backend.backend() != "tensorflow":
            super().update_step(gradient, variable, learning_rate)
            return
        import tensorflow as tf

        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle, accum=self.momentums[place].value.handle, lr=tf.cast(learning_rate, variable.dtype),
            grad=tf.cast(gradient, variable.dtype), momentum=self.momentum, use_nesterov=True)
