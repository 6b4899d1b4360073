// The record of the platform's own documents, as the editor shows it first.

export const EXAMPLE = `{
  "device_id": "rpi_001",
  "timestamp": "2025-01-29T11:35:00Z",
  "data": {
    "temperature": 24.3,
    "humidity": 51,
    "pressure": 1013.25
  }
}`;
