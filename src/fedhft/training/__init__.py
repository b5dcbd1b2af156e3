"""The torch side: model, data, local training, evaluation."""
