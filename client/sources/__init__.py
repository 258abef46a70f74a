"""Where scans come from: a PACS, a web server or an export folder; this side only writes whole files into the inbox."""
