"""The chat page: in Streamlit's AppTest and in a real Chromium."""
