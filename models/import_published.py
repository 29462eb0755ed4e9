"""The command's earlier name: python -m models.import_published."""

from models.pretrained.lightning_liere.__main__ import main

if __name__ == "__main__":
    raise SystemExit(main())
