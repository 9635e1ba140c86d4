"""Whether a dataset says what it holds."""


def undescribed(dataset):
    """The variables without a label, a unit and a definition of at least a few words."""
    return [
        name
        for name, array in dataset.variables.items()
        if not all(isinstance(array.attrs.get(key), str) for key in ("long_name", "units"))
        or not array.attrs["long_name"].strip()
        or not array.attrs["units"].strip()
        or len(str(array.attrs.get("definition", "")).split()) < 3
        or not array.attrs["definition"].endswith(".")
    ]
