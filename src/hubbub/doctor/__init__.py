"""The examination behind `hubbub doctor`: what the settings name is looked at, and nothing is changed."""
