"""Reports: numbers to charts, results to one HTML, Markdown or JSON file."""
