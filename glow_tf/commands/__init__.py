"""The commands: each turns flags into settings and calls the library.

A command is a module with a docstring (its help text), `define(values)`, which defines its flags, and
`main(values)`, which runs it and may return an exit status. `cli` runs all of them in the same way.
"""
