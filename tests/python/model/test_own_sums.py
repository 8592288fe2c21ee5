import numpy as np

from fedmed_edge.model.own_sums import own_model
from fedmed_edge.recipe import Recipe
from fedmed_edge.statistics.accumulate import Accumulator, plan_folds


def test_it_is_ridge_regression_on_the_sites_rows_each_class_alike() -> None:
    recipe = Recipe(name="lesion", kind="classification", classes=("a", "b"))
    random, patients = (
        np.random.default_rng(0),
        {0: {f"a{i}" for i in range(30)}, 1: {f"b{i}" for i in range(10)}},
    )
    sums = Accumulator(recipe.classes, row_dim=4, feature_dim=3, plan=plan_folds(patients, 1))
    rows, truth = [], []
    for label, ids in patients.items():
        for patient in sorted(ids):
            row = np.append(random.normal(label, 1, 3), 1).astype(np.float32)
            sums.add_rows(row[None], np.array([label], np.int32), patient)
            rows.append(row)
            truth.append(label)
    model = own_model(sums.result(), recipe)
    z, weights = np.array(rows, np.float64), 1 / np.array([30, 10])[truth]
    gram = (z * weights[:, None]).T @ z
    level = model.ridge * np.diag(gram).mean()
    wanted = np.linalg.solve(gram + level * np.eye(4), (z * weights[:, None]).T @ np.eye(2)[truth])
    np.testing.assert_allclose(model.head, wanted, atol=1e-9)
    assert model.sites == model.contributions == () and model.generation == ""
