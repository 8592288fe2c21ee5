"""Images of a recipe in, feature rows and their sums out: the one fixed map that a federation shares.

`backbones`, `training` make the map, `encoder_export` writes it as ONNX (only these load torch and MONAI) ·
`weights` backbone files · `publish` a generation · `encoder`, `lift` apply it to one image · `extract`
turns a data set into `FeatureStatistics` · `heads` scores many heads in one pass · `drawing` what comes next.
"""
