"""The steps of a selection: which blind pairs a person should look at."""
