"""Metrics of predicted against true label indices, as ptv2 reports them."""


def accuracy(predictions, labels):
    """Share of rows whose prediction is their label."""
    return sum(one == other for one, other in zip(predictions, labels)) / len(labels)


def macro_f1(predictions, labels):
    """Mean of the classes' F1, over the classes that occur in predictions or labels."""
    classes = {*predictions, *labels}
    return sum(f1(predictions, labels, one) for one in classes) / len(classes)


def f1(predictions, labels, one):
    """Harmonic mean of a class's precision and recall: 2·hits / (predicted + true)."""
    hits = sum(p == l == one for p, l in zip(predictions, labels))
    return 2 * hits / (predictions.count(one) + labels.count(one))


def scores(task, predictions, labels):
    """All metrics of a task."""
    found = {"accuracy": accuracy(predictions, labels)}
    if task == "cb":
        found["f1"] = macro_f1(predictions, labels)
    return found
