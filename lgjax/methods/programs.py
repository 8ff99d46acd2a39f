"""A method as programs, compiled for the devices of a mesh; what a compiler refuses is left out."""

import functools
import itertools
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
        self.graphs = settings.cuda_graphs and self._has_graphs()  # whether a restoration is to be one CUDA graph
        self.fused: tuple[str, ...] | None = None  # parts that kernels of ours compute; None: nobody has asked
        self.function = self._function(self.graphs)  # to be compiled
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
            self.function = self._function(self.graphs)

    def ungraphed(self, error: Exception) -> bool:
        """Leaves graphs out, and says so, where a restoration that was to be one failed when it ran; else False.

        A driver makes a graph when the graph is first run, so it refuses there, in words of its own.
        """
        if not self.graphs or devices.lacks_memory(error):
            return False
        self.graphs, self.function, self.compiled = False, self._function(False), {}
        LOG.warning(GRAPH_REFUSED)
        return True

    def compile(self, *given: Any) -> Callable:
        """Compiles the method for what is given; what a compiler refuses is left out: graphs, our kernels, or both."""
        self.settle(*given)
        *more, least = dict.fromkeys(itertools.product((self.fused or (), ()), (self.graphs, False)))
        for fused, graphs in more:
            try:
                return self._compiled(fused, graphs, given)
            except Exception as error:
                if devices.lacks_memory(error):
                    raise
        return self._compiled(*least, given)

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

    def _compiled(self, fused: tuple[str, ...], graphs: bool, given: tuple[Any, ...]) -> Callable:
        """Compiles with or without kernels of ours and graphs, and stays with this; says what the compiler refused."""
        function = self.function if graphs == self.graphs else self._function(graphs)
        with convolutions.fusion(fused):
            program = function.lower(*given).compile()
        if graphs != self.graphs:
            LOG.warning(GRAPH_REFUSED)
        if fused != self.fused:
            LOG.warning(own_kernels.REFUSED)
        self.fused, self.graphs, self.function = fused, graphs, function
        return program

    def _function(self, graphs: bool) -> Any:
        """Returns the method as a function to be compiled, into one CUDA graph or not."""
        if self.method.name == "gmm":
            mixture = self.settings.mixture
            return jax.jit(functools.partial(gmm.score, kappa=mixture.kappa, iterations=mixture.iterations))
        if self.method.volume:
            model = self.model if self.method.model else None
            each = devices.on_all(volumes.restorer(self.method, self.settings, model, self.micro), self.mesh)
        else:
            each = devices.on_each(slicewise.restorer(self.method, self.settings, self.model), self.mesh)
        options = devices.compiler_options(self.mesh, "restoration")
        if graphs:
            options = {**options, **devices.compiler_options(self.mesh, "graph")}
        return jax.jit(each, compiler_options=options)

    def _has_graphs(self) -> bool:
        """Returns whether XLA knows the options that make a restoration one CUDA graph; says so where it does not."""
        known = bool(devices.compiler_options(self.mesh, "graph"))
        if not known:
            LOG.warning(NO_GRAPHS)
        return known
