"""The kit every process of the platform is built from. It knows nothing of the business."""
