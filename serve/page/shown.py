"""Files of a question as the page shows them: images drawn here, all other media by the server (``POST /preview``)."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from serve.client import Server, ServerFault
from serve.markup import escaped
from serve.page.uploads import Upload, picture, png, url_of
from serve.views import Preview, preview

SMALL = 320
"""Longest side of an image that a question shows, in pixels."""


def preview_of(upload: Upload, server: Server | None) -> Preview:
    """Return how a file is shown, drawn once a session; ServerFault where it cannot be read.

    ``server``: who draws what is no image; None: there is none now.
    """
    kept: dict[str, Preview] = st.session_state.setdefault("previews", {})
    if upload.digest not in kept:
        if upload.modality == "image":
            kept[upload.digest] = Preview("", (("", png(picture(upload.name, upload.data, SMALL))),))
        elif server is None:
            raise ServerFault(f"{upload.name} is not shown: there is no server that would draw it.")
        else:
            try:
                kept[upload.digest] = preview(server, upload.part)
            except ServerFault as error:
                raise ServerFault(f"{upload.name}: {error}", error.code) from error
    return kept[upload.digest]


def show_uploads(uploads: Sequence[Upload], server: Server | None) -> None:
    """Show images in a row; of other files name and caption, then frames in a row, a drawing or text."""
    shown: list[tuple[Upload, Preview]] = []
    for upload in uploads:
        try:
            shown.append((upload, preview_of(upload, server)))
        except ServerFault:  # the question says why, where that is in its way
            st.text(upload.name)
    images = [(one.name, look.pictures[0][1]) for one, look in shown if one.modality == "image"]
    if images:
        with st.container(horizontal=True):
            for name, data in images:
                st.image(url_of(data), width=220, alt=name)
    for upload, look in shown:
        if upload.modality != "image":
            show_preview(f"{upload.name}: {look.caption}", look, upload.name)
            if upload.modality == "audio":
                st.audio(upload.data)


def show_preview(title: str, look: Preview, name: str, width: int = 100) -> None:
    """Show one view: its title, then its pictures with their captions, or its text."""
    st.text(title)
    if len(look.pictures) > 1:
        with st.container(horizontal=True, gap="small"):
            for caption, data in look.pictures:
                st.image(url_of(data), caption=escaped(caption), width=width, alt=f"{name}, {caption}")
    elif look.pictures:
        st.image(url_of(look.pictures[0][1]), alt=name)
    if look.text and not look.pictures:
        st.code(look.text, language=None, wrap_lines=True)
