"""A method as programs, compiled for the devices of a mesh; what a compiler refuses is left out."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from lgjax.methods import gmm, own_kernels, slicewise, volumes
from lgjax.methods.local import Settings
from lgjax.methods.names import OURS, XLAS, Method
from lgjax.models import convolutions
from lgjax.models.base import Model
from lgjax.runtime import devices

LOG = logging.getLogger(__name__)
NO_GRAPHS = "warning: restore.cuda_graphs: XLA makes no such graphs for this device: going on without."
GRAPH_REFUSED = "warning: restore.cuda_graphs: XLA refuses the graph on this device: going on without."


class Programs:
    """A method compiled for a mesh, once for each shape of what the method is given.

    Kernels of lgjax's own compute parts of networks where they do as XLA's, see `own_kernels`. With `cuda_graphs`, a
    GPU is told the kernels of all iterations at once; it computes the same.
    """

    def __init__(self, method: Method, settings: Settings, model: Model | None, mesh: jax.sharding.Mesh, micro: int):
        """Compiles nothing yet.

        Args:
          method: from `parse`.
          settings: of the restoration.
          model: that the method needs; None will do for baselines.
          mesh: the devices.
          micro: slices that one program of a volume asks networks about at a time on each device.
        """
        self.method, self.settings, self.model, self.mesh, self.micro = method, settings, model, mesh, micro
        self.graphs = settings.cuda_graphs  # whether a restoration is to be one CUDA graph
        self.fused: tuple[str, ...] | None = None  # parts that kernels of ours compute; None: nobody has asked
        self.function = self._function()  # to be compiled
        self.compiled: dict[Any, Callable] = {}  # by the shapes of what is given

    @property
    def kernels(self) -> str:
        """Whose kernels compute what is compiled: lgjax where some are lgjax's own, else XLA."""
        return OURS if self.fused else XLAS

    def of(self, *given: Any) -> Callable:
        """Returns the program for what is given, compiled where nothing of these shapes was given before."""
        shapes = tuple(map(np.shape, jax.tree.leaves(given)))
        if shapes not in self.compiled:
            self.compiled[shapes] = self.compile(*given)
        return self.compiled[shapes]

    def restart(self, micro: int) -> None:
        """Forgets what was compiled, for programs with another micro-batch; volumes have theirs within."""
        self.micro, self.compiled = micro, {}
        if self.method.volume:
            self.function = self._function()

    def compile(self, *given: Any) -> Callable:
        """Compiles the method for what is given; what a compiler refuses is left out: our kernels, then graphs."""
        self.settle(*given)
        try:
            with convolutions.fusion(self.fused or ()):
                return self.function.lower(*given).compile()
        except Exception as error:
            if devices.is_out_of_memory(error) or not (self.fused or self.graphs):
                raise
            refused = self._without()
            program = self.compile(*given)
            LOG.warning(refused)
            return program

    def settle(self, *given: Any) -> None:
        """Decides, once, what kernels of ours are to compute for slices like those given."""
        if self.fused is None:
            self.fused = self._trusted(given)

    def _trusted(self, given: tuple[Any, ...]) -> tuple[str, ...]:
        """Returns the parts that kernels of ours compute as XLA's, for slices like these; none of a method without."""
        kind = convolutions.forms.value or self.mesh.devices.flat[0].device_kind
        if not (self.model and self.method.model and convolutions.has_own_kernels(kind)):
            return ()
        with convolutions.fusion(own_kernels.wanted(self.settings)):
            if not own_kernels.hold(self.function.trace(*given)):
                return ()
        params, *arrays = given
        size = next(array.shape[1:3] for array in jax.tree.leaves(arrays) if np.ndim(array) == 4)
        with convolutions.forms(kind):
            return own_kernels.trusted(self.model.bind, params, size, self.settings)

    def _without(self) -> str:
        """Leaves out what a compiler may have refused; returns what is then to be said."""
        if self.fused:
            self.fused = ()
            return own_kernels.REFUSED
        self.graphs = False
        self.function = self._function()
        return GRAPH_REFUSED

    def _function(self) -> Any:
        """Returns the method as a function to be compiled."""
        if self.method.name == "gmm":
            mixture = self.settings.mixture
            return jax.jit(functools.partial(gmm.score, kappa=mixture.kappa, iterations=mixture.iterations))
        if self.method.volume:
            model = self.model if self.method.model else None
            each = devices.on_all(volumes.restorer(self.method, self.settings, model, self.micro), self.mesh)
        else:
            each = devices.on_each(slicewise.restorer(self.method, self.settings, self.model), self.mesh)
        options = devices.compiler_options(self.mesh, "restoration")
        if self.graphs:
            options = {**options, **self._graph()}
        return jax.jit(each, compiler_options=options)

    def _graph(self) -> dict[str, str]:
        """Returns the options that make a restoration one CUDA graph; says where there are none."""
        options = devices.compiler_options(self.mesh, "graph")
        if not options:
            self.graphs = False
            LOG.warning(NO_GRAPHS)
        return options
