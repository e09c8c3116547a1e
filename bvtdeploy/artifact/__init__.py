"""The `.bvt` file: its one specification (`spec`), writer, reader, golden I/O and inspection."""
