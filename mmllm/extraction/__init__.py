"""Fields of document pictures as JSON that follows a schema: with a like document as example, boxes, probabilities."""
