"""What the examples share: data that is fetched and checked, bags, clocks, tables and plots."""
