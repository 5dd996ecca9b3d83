"""For which bases of a server an adapter is, told from widths alone: no weights of either are read."""

from nigaoe.core.adapter_names import Feature
from nigaoe.core.errors import AdapterError
from nigaoe.core.manifests import AdapterOutline
from nigaoe.serve.config import ServeConfig

_IDENTITY_WIDTHS = {"insightface": 512, "dlib": 128}
"""By the kind of face encoder; that of an ONNX file is known only once it is loaded."""


def require_suitable(outline: AdapterOutline, config: ServeConfig) -> tuple[str, ...]:
    """Names of the bases that an adapter fits, at least one.

    Raises:
        AdapterError: It fits none, or no encoder of this server says what it reads.
        BaseModelError: A base or the encoder of the config cannot be found.
    """
    # Here, so that an ingress that is asked for no adapter loads no torch.
    from nigaoe.core.adapters.fitting import read_attention_outline, require_fit

    _require_features(outline, config)
    fitting, reasons = [], []
    for base in config.bases:
        try:
            require_fit(outline, read_attention_outline(base))
            fitting.append(base)
        except AdapterError as error:
            reasons.append(f"{base}: {error}")
    if not fitting:
        raise AdapterError(f"the adapter fits no base of this server ({reasons[0]})")
    return tuple(fitting)


def _require_features(outline: AdapterOutline, config: ServeConfig) -> None:
    from nigaoe.core.image_encoders import read_encoder_config
    from nigaoe.core.image_prompts.features import require_width

    widths: dict[Feature, int] = {}
    if config.image_encoder is not None:
        encoder = read_encoder_config(config.image_encoder)
        widths = {"image_embeds": int(encoder.projection_dim), "hidden_states": int(str(encoder.hidden_size))}
    for feature, width in outline.features.items():
        if feature == "identity":
            if config.face_encoder is None:
                raise AdapterError("the adapter reads identities and this server has no face_encoder; set one there")
            known = _IDENTITY_WIDTHS.get(config.face_encoder.partition(":")[0], width)
            require_width(feature, width, known, f"face encoder {config.face_encoder!r}")
        elif feature not in widths:
            raise AdapterError(f"the adapter reads {feature} and this server has no image_encoder; set one there")
        else:
            require_width(feature, width, widths[feature], f"image encoder {config.image_encoder!r}")
