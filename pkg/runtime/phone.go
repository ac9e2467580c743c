package runtime

// PhoneStatus is what a sovereignd on a phone says of itself and of the phone.
type PhoneStatus struct {
	// Durable: it goes on when adb's connection, or adbd itself, ends. Otherwise
	// NotDurable says why it does not.
	Durable    bool   `json:"durable"`
	NotDurable string `json:"not_durable,omitempty"`
	// Held is why machines do not run now although they are wanted up: the phone
	// boots, or the battery has reached Floor. "" where they do.
	Held string `json:"held,omitempty"`
	// Awake: the phone is kept from sleeping, as a machine is wanted up.
	Awake bool `json:"awake"`
	// Concerns are what else is not as it should be.
	Concerns []string `json:"concerns,omitempty"`
	// Battery is nil where there is none.
	Battery *PhoneBattery `json:"battery,omitempty"`
	Heat    *PhoneHeat    `json:"heat,omitempty"`
	Floor   PhoneFloor    `json:"floor"`
}

// PhoneBattery is a phone's battery.
type PhoneBattery struct {
	Percent int `json:"percent"`
	// State is the kernel's word: "Charging", "Discharging", "Full", "Not
	// charging", "Unknown".
	State   string  `json:"state"`
	Celsius float64 `json:"celsius"`
	Health  string  `json:"health,omitempty"` // "Good", "Overheat", …
}

// PhoneHeat is the hottest place that a phone has a sensor at.
type PhoneHeat struct {
	Zone    string  `json:"zone"` // its maker's word
	Celsius float64 `json:"celsius"`
}

// PhoneFloor is at what machines are shut down in order, and let up again when
// it is better. 0 is none.
type PhoneFloor struct {
	// Battery is in percent, 0 to 90, and holds while it gets emptier.
	Battery int `json:"battery,omitempty"`
	// Celsius is of the battery, 0 or 30 to 70.
	Celsius int `json:"celsius,omitempty"`
}
