"""PyMC-style variational inference for NumPyro models."""

import importlib.metadata

from numpyro_vi_ext.approximation.bridges import to_nuts
from numpyro_vi_ext.approximation.empirical import Empirical
from numpyro_vi_ext.approximation.gaussian import FullRank, MeanField
from numpyro_vi_ext.approximation.loading import load
from numpyro_vi_ext.approximation.results import Approximation, sample_approx
from numpyro_vi_ext.batching.minibatch import Minibatch
from numpyro_vi_ext.batching.streaming import Stream
from numpyro_vi_ext.calibration import Calibration
from numpyro_vi_ext.callbacks import CheckLossConvergence, CheckParametersConvergence, Tracker
from numpyro_vi_ext.errors import DiscreteLatentError, NonFiniteError
from numpyro_vi_ext.estimators import (
    ClosedFormEntropy,
    Estimator,
    ScoreIncluded,
    StickingTheLanding,
)
from numpyro_vi_ext.fitting import fit
from numpyro_vi_ext.inference import Inference
from numpyro_vi_ext.kernels import imq, rbf
from numpyro_vi_ext.methods import ADVI, ASVGD, SVGD, FullRankADVI, KLqp
from numpyro_vi_ext.model import Model
from numpyro_vi_ext.optimizers import (
    adadelta,
    adagrad,
    adagrad_window,
    adam,
    adamax,
    momentum,
    nesterov_momentum,
    rmsprop,
    sgd,
)
from numpyro_vi_ext.plotting import plot_loss, plot_tracker, plot_vsbc
from numpyro_vi_ext.verdict import Verdict
from numpyro_vi_ext.vsbc import vsbc

__version__: str = importlib.metadata.version("numpyro-vi-ext")

__all__ = [
    "ADVI",
    "ASVGD",
    "SVGD",
    "Approximation",
    "Calibration",
    "CheckLossConvergence",
    "CheckParametersConvergence",
    "ClosedFormEntropy",
    "DiscreteLatentError",
    "Empirical",
    "Estimator",
    "FullRank",
    "FullRankADVI",
    "Inference",
    "KLqp",
    "MeanField",
    "Minibatch",
    "Model",
    "NonFiniteError",
    "ScoreIncluded",
    "StickingTheLanding",
    "Stream",
    "Tracker",
    "Verdict",
    "adadelta",
    "adagrad",
    "adagrad_window",
    "adam",
    "adamax",
    "fit",
    "imq",
    "load",
    "momentum",
    "nesterov_momentum",
    "plot_loss",
    "plot_tracker",
    "plot_vsbc",
    "rbf",
    "rmsprop",
    "sample_approx",
    "sgd",
    "to_nuts",
    "vsbc",
]
