"""RoPE-ViT (Heo et al., arXiv 2403.13298): axial or mixed RoPE, with or without a table (ape)."""

from __future__ import annotations

from models.pretrained.families import names
from models.pretrained.family import TIMM, Family, Found, Licence, Preparation
from models.pretrained.layout import Layout, names_of
from models.spec import EncodingSpec

ORIGINAL = "naver-ai/rope-vit"
BASE = 100.0
LICENCE = Licence(
    "Apache-2.0 (timm's ports and naver-ai/rope-vit; the cards of naver-ai's weights say "
    "BSD-3-Clause)"
)


def axial(found: Found) -> EncodingSpec:
    """Indices; their pairs are brought from columns first to rows first with the weights."""
    base = found.number("rope_theta", "rope_temperature", default=BASE)
    return EncodingSpec("axial_rope", base=base)


def mixed(found: Found) -> EncodingSpec:
    """Learned frequencies; the base matters to what they were drawn from alone."""
    return EncodingSpec("rope_mixed")


def _family(kind: str, table: bool) -> Family:
    positions = dict(names.TABLE) if table else {}
    optional = names.HEADLESS
    timm = {"rope.freqs": "frequencies"} if kind == "mixed" else {}
    own = {
        "freqs": "frequencies",
        "freqs_t_x": "token_columns",
        "freqs_t_y": "token_rows",
    }  # fmt: skip
    ape = "_ape" if table else ""
    return Family(
        name=f"rope_{kind}{ape}",
        about=f"RoPE-ViT, {kind}{' with a table besides' if table else ''}",
        licence=LICENCE,
        layouts=(
            Layout(
                TIMM,
                names_of(
                    names.ENDS | names.HEAD | names.POOLED_NORM | positions | timm,
                    names.LAYER,
                    names.FUSED,
                    names.GAMMA,
                ),
                optional=optional | names.EITHER_NORM,
            ),
            Layout(
                ORIGINAL,
                names_of(
                    names.ENDS | names.HEAD | positions | (own if kind == "mixed" else {}),
                    names.LAYER,
                    names.FUSED,
                    names.GAMMA,
                ),
                optional=optional | {"token_columns", "token_rows"},
            ),
        ),
        heads={384: 6, 768: 12, 1024: 16},
        epsilon={TIMM: 1e-6, ORIGINAL: 1e-6},
        preparation={TIMM: Preparation(224, 248), ORIGINAL: Preparation(224, 224)},
        encoding=mixed if kind == "mixed" else axial,
        architectures=rf"vit_\w+_patch16_rope{'_mixed' * (kind == 'mixed')}{ape}_\d+",
        repository=ORIGINAL,
        tags="naver_",
        channels="as ours" if kind == "mixed" else "columns-first",
        table_rule={TIMM: "bicubic-antialias", ORIGINAL: "bicubic"} if table else {},
        built={
            "rope_type": "mixed" if kind == "mixed" else "cat",
            "rope_grid_indexing": "xy",
            "use_rot_pos_emb": True,
        },
    )


FAMILIES = tuple(_family(kind, table) for kind in ("axial", "mixed") for table in (False, True))
