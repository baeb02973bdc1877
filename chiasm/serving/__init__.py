"""The server: the verbs of `chiasm` over HTTP, with a page mounted beside them.

`chiasm.serving.run.serve` starts processes, `chiasm.serving.app.create_app` makes the application of its parts. This
package imports nothing by itself: the web libraries are loaded with the module that needs them.
"""
