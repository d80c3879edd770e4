"""From notebooks to the book: executing chapters, putting pages together, and the gates that both pass."""
