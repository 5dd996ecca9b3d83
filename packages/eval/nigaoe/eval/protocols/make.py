"""From config to protocol."""

from nigaoe.eval.config import EvalConfig, FolderProtocolConfig, ToyProtocolConfig
from nigaoe.eval.protocols.folder import FolderProtocol
from nigaoe.eval.protocols.protocol import EvalProtocol
from nigaoe.eval.protocols.repeated import Repeated
from nigaoe.eval.protocols.toy import ToyProtocol


def make_protocol(config: EvalConfig) -> EvalProtocol:
    """The protocol of the config's `kind`, with as many pictures of each sample as the config has seeds."""
    protocol = _of_kind(config)
    return Repeated(protocol, config.seeds) if config.seeds > 1 else protocol


def _of_kind(config: EvalConfig) -> EvalProtocol:
    match config.protocol:
        case ToyProtocolConfig() as toy:
            return ToyProtocol(toy, config)
        case FolderProtocolConfig() as folder:
            return FolderProtocol(folder, config)
