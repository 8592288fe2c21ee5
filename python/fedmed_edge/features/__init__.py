"""Images of a recipe in, feature rows and their sums out: the one fixed map that a federation shares.

`backbones`, `training` (with `feed`, `shifts`, `objectives`, `local_norms`) make the map, `encoder_export`
writes it as ONNX; these alone load torch and MONAI, `drawing`, `weights` serve them · `publish`,
`generations` a generation of it · `encoder`, `lift` apply it to an image · `extract` a data set into
`FeatureStatistics` · `heads` many heads' answers in one pass.
"""
