"""The DICOM node: instances arrive by C-STORE or DICOMweb; results go out, or to disk in shadow mode.

Torch-free, and the node itself loads no runtime: one process beside it answers. Public: `node.Node`,
`delivery.send_files`, `comparison.compare`.
"""
