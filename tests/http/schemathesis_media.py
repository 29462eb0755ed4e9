"""Hooks of schemathesis: where a type of file is asked for, files that can be read."""

from __future__ import annotations

import schemathesis
from hypothesis import strategies as st

from media.formats import media_types
from tests.helpers.jobs import tarred, zipped
from tests.helpers.service_fixtures import MEDIA, picture

FILES = {"a.png": picture(), "b.png": picture(1)}

for modality, make in MEDIA.items():
    for media_type in media_types(modality):
        schemathesis.openapi.media_type(media_type, st.integers(0, 3).map(make))
zips = st.just(zipped(FILES))
schemathesis.openapi.media_type("application/zip", zips, aliases=["application/x-zip-compressed"])
schemathesis.openapi.media_type("application/x-tar", st.just(tarred(FILES)))
