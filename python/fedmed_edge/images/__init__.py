"""Images: a hospital's files in (PNG, JPEG, NIfTI, DICOM; dataset and task folders), arrays on the grid out.

Names: `image.Image`, `read_image`, `read_mask`; `dataset.Dataset`, `read_dataset`, `Task`, `read_task`,
`default_recipe`; `preprocess.prepare`, `prepare_mask`, `restore`; `windows.cover`, `blended`.
"""
