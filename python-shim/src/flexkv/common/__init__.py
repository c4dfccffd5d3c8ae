"""Names that FlexKV users import: configurations, requests, layouts, shared tensors."""
