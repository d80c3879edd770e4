"""What the pages show: parameters, results with their uncertainty, tables, figures, and generated parts."""
