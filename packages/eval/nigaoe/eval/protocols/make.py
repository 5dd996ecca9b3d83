"""From config to protocol."""

from nigaoe.eval.config import EvalConfig, FolderProtocolConfig, ToyProtocolConfig
from nigaoe.eval.protocols.folder import FolderProtocol
from nigaoe.eval.protocols.protocol import EvalProtocol
from nigaoe.eval.protocols.toy import ToyProtocol


def make_protocol(config: EvalConfig) -> EvalProtocol:
    """The protocol of the config's `kind`."""
    match config.protocol:
        case ToyProtocolConfig() as toy:
            return ToyProtocol(toy, config)
        case FolderProtocolConfig() as folder:
            return FolderProtocol(folder, config)
