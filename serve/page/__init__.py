"""The chat page's parts, which ``streamlit_app.py`` puts together; what they ask a server goes through ``client``."""
