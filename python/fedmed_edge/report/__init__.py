"""One HTML file that shows what a run found: no link, font or script from elsewhere.

In: `data.ReportData`, plain names, numbers and arrays. Out: `html.write_report`. Needs matplotlib and Jinja2.
"""
