"""From notebooks to the book: executing chapters, putting pages together, and the gates that both pass."""

import sys

# nbformat imports jsonschema, which builds a grammar of internationalised addresses if it finds this package: a second
# in each of a build's processes, for a check that no notebook needs. None makes jsonschema do without it.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
