"""Which operations a SavedModel holds, found before TensorFlow loads it and lets it run.

A SavedModel is a program; see TensorFlow's SECURITY.md. One that `export` wrote holds nothing but arithmetic,
its own variables, and the saver that TensorFlow puts into each.
"""

import pathlib
from collections.abc import Iterator
from typing import Any

from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from glow_tf.core.errors import ConfigError


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Functions of tensors alone.
ARITHMETIC = _names("""
    Abs Add AddN AddV2 All Asin Assert AvgPool BatchMatMulV2 BiasAdd BroadcastArgs BroadcastGradientArgs
    BroadcastTo Cast ConcatV2 Const Conv2D Cos Cumsum DepthToSpace DepthwiseConv2dNative DynamicStitch
    Einsum Elu EnsureShape Equal Erf Erfc Exp ExpandDims Fill Floor FloorDiv FloorMod GatherV2 Greater
    GreaterEqual Identity IdentityN IsFinite LeakyRelu Less LessEqual LinSpace Log Log1p
    LogMatrixDeterminant LogSoftmax LogicalAnd LogicalNot LogicalOr MatMul MatrixBandPart
    MatrixDeterminant MatrixDiagPartV3 MatrixDiagV3 MatrixInverse MatrixSetDiagV3 MatrixTriangularSolve
    Max Maximum Mean Min Minimum Mul Ndtri Neg NoOp NotEqual OneHot OnesLike Pack Pad PadV2 Placeholder
    Pow Prod Range RealDiv Reciprocal Relu Reshape ReverseV2 Round Rsqrt Select SelectV2 Selu Shape
    Sigmoid Sign Sin Slice Softmax Softplus Softsign SpaceToDepth Split SplitV Sqrt Square
    SquaredDifference Squeeze StatelessRandomGetKeyCounter StatelessRandomNormalV2
    StatelessRandomUniformIntV2 StatelessRandomUniformV2 StopGradient StridedSlice Sub Sum Tanh
    TensorListFromTensor TensorListGetItem TensorListReserve TensorListSetItem TensorListStack Tile
    Transpose Unpack ZerosLike
""")
# Calls of functions in the same file, and variables.
CALLS = _names("PartitionedCall StatefulPartitionedCall StatelessWhile")
VARIABLES = _names("AssignVariableOp DisableCopyOnRead ReadVariableOp VarHandleOp")
# What reads and writes files: each belongs to one function of the saver, which the graph alone calls.
SAVERS = {
    "__inference__traced_save_": _names(
        "MergeV2Checkpoints SaveV2 ShardedFilename StaticRegexFullMatch StringJoin"
    ),
    "__inference__traced_restore_": _names("RestoreV2"),
}
REMEDY = "If you know where it comes from: --allow_unknown_ops"


def check_operations(folder: pathlib.Path) -> None:
    """Raises ConfigError if a SavedModel holds other operations than `export` writes; OSError if damaged."""
    if other := [path.name for path in folder.glob("saved_model.*") if path.name != "saved_model.pb"]:
        raise ConfigError(
            "the SavedModel must be one file, saved_model.pb, as glow_tf.export writes it; TensorFlow may "
            f"read another one instead. Received: {folder}/{other[0]}. {REMEDY}"
        )
    meta_graph = _meta_graph(folder / "saved_model.pb")
    graph, endpoints = meta_graph.graph_def, meta_graph.object_graph_def.concrete_functions
    bodies = [("", graph.node), *((f.signature.name, f.node_def) for f in graph.library.function)]
    found = (_unknown(name, nodes, name in endpoints) for name, nodes in bodies)
    if unknown := sorted({what for own in found for what in own}):
        raise ConfigError(
            "the SavedModel must hold the operations of glow_tf.export alone, because loading lets it run. "
            f"Received: {str(folder)!r} with {', '.join(unknown[:5])}. {REMEDY}"
        )


def _meta_graph(path: pathlib.Path) -> Any:
    """Returns what the file saved_model.pb holds, without loading it."""
    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise OSError(f"{path} is damaged: {error}.") from None
    if not model.meta_graphs:
        raise OSError(f"{path} is damaged: it holds nothing.")
    # A file of TensorFlow 1 names what runs when it is loaded. One of TensorFlow 2 loads objects, which may
    # only call the functions of theirs.
    if len(model.meta_graphs) != 1 or not model.meta_graphs[0].HasField("object_graph_def"):
        raise ConfigError(
            "the SavedModel must be in the format of TensorFlow 2, as glow_tf.export writes it; one of "
            f"TensorFlow 1 runs when it is loaded. Received: {path.parent}. {REMEDY}"
        )
    return model.meta_graphs[0]


def _unknown(function: str, nodes: Any, is_endpoint: bool) -> Iterator[str]:
    """Yields what a function, or the graph, must not do."""
    saver = _saver_of(function)
    if saver and is_endpoint:
        yield f"the saver's {function} as an endpoint"
    for node in nodes:
        called = [f.name for value in node.attr.values() for f in (value.func, *value.list.func)]
        if node.op in ARITHMETIC or node.op in VARIABLES or (saver and node.op in SAVERS[saver]):
            continue
        if node.op not in CALLS:
            yield f"{node.op} within {function or 'the graph'}"
        elif function and any(map(_saver_of, called)):
            yield f"a call of the saver within {function}"


def _saver_of(name: str) -> str:
    return next((saver for saver in SAVERS if name.startswith(saver)), "")
