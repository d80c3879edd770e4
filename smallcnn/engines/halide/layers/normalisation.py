"""Batch normalisation (Ioffe & Szegedy 2015, arXiv:1502.03167): y = γ x̂ + β with x̂ = (x − μ) / √(σ² + ε).

μ and σ² are those of the batch in training, and moving averages otherwise.
"""

from __future__ import annotations

import halide as hl

from smallcnn import architecture
from smallcnn.engines.halide.arrays import LANES, MAPS, Shape, Stages, channel
from smallcnn.engines.halide.layers.base import Layer
from smallcnn.engines.halide.loops import channel_sums, in_double, sum_over_packs, vector_by_vector

lane, _, _, _, pack = MAPS


class Normalisation(Layer[architecture.BatchNormalisation]):
    """∂loss/∂x = γ/√(σ² + ε) · (g − mean(g) − x̂ · mean(g·x̂)), where g is ∂loss/∂y and means are over the batch.

    Both ways this is linear in x and in g: a few factors for each channel, then one pass.
    """

    def arrays(self, packs: int) -> dict[str, Shape]:
        per_channel = Shape((self.channels,))
        names = (self._own("inverse"), self._own("factor"), self._own("summand"), *map(self._statistic, STATISTICS))
        return super().arrays(packs) | dict.fromkeys(names, per_channel)

    def forward(self, batch_size: int, stages: Stages) -> hl.Func:
        x, output, count = stages[self.input], self.stage("normalisation"), batch_size * self.size**2
        square, sums = hl.Func("square"), self.stage("sums")
        square[MAPS] = hl.strict_float(x[MAPS] * x[MAPS])
        channel_sums(sums, [x, square], self.channels, self.size, stages)
        totals = (sum_over_packs(in_double(sums), -(-batch_size // LANES), each, channel) for each in range(2))
        first, second = (hl.strict_float(total / hl.f64(count)) for total in totals)
        moments = hl.Func("moments")  # in double precision, because the variance is a small difference
        moments[channel] = (first, hl.max(hl.strict_float(second - first * first), hl.f64(0)))
        moments.compute_root()
        # As in Keras, the variance that is kept is the unbiased one where there are pixels.
        unbiased = hl.f64(count / max(count - 1, 1) if len(self._placed.input_shape) == 3 else 1)
        self._set("mean", hl.f32(moments[channel][0]), stages)
        self._set("variance", hl.f32(hl.strict_float(moments[channel][1] * unbiased)), stages)

        def used(of_batch: hl.Expr, leaf: str) -> hl.Expr:
            return hl.select(stages["training"][0] != 0, of_batch, stages[self.parameters[leaf]][channel])

        mean = used(stages[self._statistic("mean")][channel], "moving_mean")
        variance = hl.select(
            stages["training"][0] != 0, moments[channel][1], hl.f64(stages[self.parameters["moving_variance"]][channel])
        )
        inverse = hl.f64(1) / hl.sqrt(variance + hl.f64(self.layer.epsilon))
        self._set("inverse", hl.f32(hl.strict_float(inverse)), stages)
        self._set("factor", hl.strict_float(self._gamma(stages) * stages[self._own("inverse")][channel]), stages)
        beta = stages[self.parameters["beta"]][channel] if "beta" in self.parameters else hl.f32(0)
        self._set("summand", hl.strict_float(beta - mean * stages[self._own("factor")][channel]), stages)
        factor, summand = (stages[self._own(name)][channel] for name in ("factor", "summand"))
        output[MAPS] = hl.strict_float(factor * x[MAPS] + summand)
        return vector_by_vector(output)

    def backward(self, batch_size: int, stages: Stages) -> hl.Func:
        x, g, count = stages[self.input], stages[self.gradient], hl.f32(batch_size * self.size**2)
        mean, inverse = stages[self._statistic("mean")][channel], stages[self._own("inverse")][channel]
        with_x, sums = hl.Func("gradient_with_x"), self.stage("gradient_sums")
        with_x[MAPS] = hl.strict_float(g[MAPS] * (x[MAPS] - mean))
        channel_sums(sums, [g, with_x], self.channels, self.size, stages)
        packs = -(-batch_size // LANES)
        sum_g, sum_g_x = (hl.f32(sum_over_packs(in_double(sums), packs, each, channel)) for each in range(2))
        of_beta, of_gamma, coefficients = (self.stage(name) for name in ("of_beta", "of_gamma", "coefficients"))
        of_beta[channel] = sum_g
        of_gamma[channel] = hl.strict_float(sum_g_x * inverse)
        for leaf, stage in {"beta": of_beta, "gamma": of_gamma}.items():
            stage.compute_root()
            if leaf in self.parameters:
                stages[f"{self.parameters[leaf]}_gradient"] = stage
        scale = self._gamma(stages) * inverse
        of_x = -scale * inverse * of_gamma[channel] / count
        summand = -scale * of_beta[channel] / count - of_x * mean
        coefficients[channel] = tuple(map(hl.strict_float, (scale, of_x, summand)))
        coefficients.compute_root()
        result, factors = self.stage("normalisation_gradient"), coefficients[channel]
        value = factors[0] * g[MAPS] + (factors[1] * x[MAPS] + factors[2])
        result[MAPS] = hl.strict_float(value * stages["lane_mask"][lane, pack])
        return vector_by_vector(result)

    def _gamma(self, stages: Stages) -> hl.Expr:
        return stages[self.parameters["gamma"]][channel] if "gamma" in self.parameters else hl.f32(1)

    def _set(self, name: str, value: hl.Expr, stages: Stages) -> None:
        stage = self.stage(name)
        stage[channel] = value
        stages[self._statistic(name) if name in STATISTICS else self._own(name)] = stage.compute_root()

    def _statistic(self, name: str) -> str:
        return self.parameters[f"moving_{name}"].replace("/moving_", "/")

    def _own(self, name: str) -> str:
        return f"layer_{self.number}/{name}"


STATISTICS = ("mean", "variance")
