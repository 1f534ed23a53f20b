"""A button that copies a text: only the browser reaches the clipboard."""

from __future__ import annotations

import streamlit as st

_HTML = """<button type="button"><svg viewBox="0 0 16 16" aria-hidden="true"><path fill-rule="evenodd"
d="M5 1h9v11h-2V3H5zM2 4h9v11H2zm1.5 1.5v8h6v-8z"/></svg><span></span></button><b role="status"></b>"""
_CSS = """
button { display: flex; align-items: center; gap: 0.5rem; font: inherit; font-size: 0.875rem;
  color: var(--st-text-color); background: none; border: none; cursor: pointer; padding: 0; height: 2.5rem;
  border-radius: var(--st-button-radius, 0.5rem); }
svg { width: 1rem; height: 1rem; fill: currentColor; }
button:hover { color: var(--st-primary-color); }
button:focus-visible { outline: 2px solid var(--st-primary-color); }
b { position: absolute; left: -10000px; }
"""
_JS = """
export default function ({ data, parentElement }) {
  const button = parentElement.querySelector("button");
  const label = button.querySelector("span");
  label.textContent = data.label;
  button.setAttribute("aria-label", data.name);
  button.onclick = async () => {
    try {
      await navigator.clipboard.writeText(data.text);
      label.textContent = data.done;
    } catch {
      label.textContent = data.failed;
    }
    parentElement.querySelector("b").textContent = label.textContent;
    setTimeout(() => { label.textContent = data.label; }, 1500);
  };
}
"""
_button = st.components.v2.component("mmllm_copy", html=_HTML, css=_CSS, js=_JS)


def copy_button(text: str, name: str, key: str) -> None:
    """Show a button that copies ``text``; ``name`` is what a screen reader calls it."""
    data = {"text": text, "name": name, "label": "Copy", "done": "Copied", "failed": "Not allowed"}
    _button(key=key, data=data, width="content")
